"""The tasks of ``fab``; see ops/tasks."""

import sys

# Invoke disables the bytecode cache, without which every command would compile all of ops and agent again.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

from fabric.main import program  # noqa: E402

from ops.program import install  # noqa: E402
from ops.tasks import namespace as namespace  # noqa: E402

install(program)
