"""The tasks of ``fab``; see ops/tasks."""

from fabric.main import program

from ops.program import install
from ops.tasks import namespace as namespace

install(program)
