"""Everything that the documents tell a reader to type exists: commands, flags, playbooks, targets, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fabric.main import program

from agent.common import errors
from ops.output.errors import CAUSES
from ops.tasks import namespace
from tests.support import REPOSITORY, options_of

# Not the changelog: its older entries may name things that have been removed since.
DOCUMENTS = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("roles/*/README.md"),
    ],
    key=str,
)
FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
FAB = re.compile(r"(?:^\s*|; |&& |\(|next: )fab ([a-z][\w.-]*)((?:(?!\bfab )[^#;\n])*)")
FLAG = re.compile(r"(?<![\w-])--([a-z][\w-]*)")
PLAYBOOK = re.compile(r"\bansible-playbook ((?:(?!ansible-playbook)[^#;\n])*)")
VARIABLE = re.compile(r"-e \"?([a-z_]+)=")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
# Files that tools write and that are not in git.
INVENTORIES = {"inventory/vms", "inventory/lab", "inventory/local"}
FAB_FLAGS = {option.name for option in program.core_args()} | {"print-completion-script"}


def code(text: str) -> Iterator[str]:
    """Yields each line of fenced code, and each piece of inline code outside."""
    for block in FENCED.findall(text):
        yield from (line.split(" #")[0] for line in block.splitlines())
    for piece in INLINE.findall(FENCED.sub("", text)):
        yield piece.replace("\\|", "|")


def expanded(word: str) -> list[str]:
    """Returns the words that a shell makes from ``a{b,c}d``."""
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", word)
    return [f"{found[1]}{choice}{found[3]}" for choice in found[2].split(",")] if found else [word]


def flags() -> dict[str, set[str]]:
    """Returns the long flags of each task of ``fab``."""
    return {
        name: {flag for argument in options_of(namespace[name]) for flag in argument.names}
        for name in namespace.task_names
    }


def variables() -> set[str]:
    """Returns the variables that playbooks and roles read."""
    files = [*REPOSITORY.glob("playbooks/**/*.yml"), *REPOSITORY.glob("roles/**/*.yml")]
    return set(re.findall(r"[a-z_]+", " ".join(file.read_text("utf-8") for file in files)))


def problems(text: str) -> Iterator[str]:
    """Yields everything that a text tells a reader to type and that does not exist."""
    known, read = flags(), variables()
    for line in code(text):
        bare = re.sub(r"'[^']*'|\"(?! ?[a-z_]+=)[^\"]*\"", "''", line)
        for name, rest in FAB.findall(bare):
            if name not in known:
                yield f"fab {name}"
                continue
            missing = {flag.replace("-", "_") for flag in FLAG.findall(rest)} - {
                flag.replace("-", "_") for flag in known[name] | FAB_FLAGS
            }
            yield from (f"fab {name} --{flag.replace('_', '-')}" for flag in sorted(missing))
        for rest in PLAYBOOK.findall(line):
            for word in (each for part in rest.split() for each in expanded(part)):
                if word.endswith(".yml") and not (REPOSITORY / word).is_file():
                    yield f"ansible-playbook {word}"
                if word.startswith("inventory/") and word not in INVENTORIES and "<" not in word:
                    yield f"ansible-playbook -i {word}"
            yield from (f"-e {name}=" for name in VARIABLE.findall(rest) if name not in read)
        for target in re.findall(r"(?:^|\s)make ([a-z][a-z-]*)", line):
            if not re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE):
                yield f"make {target}"
        for script in re.findall(r"python ((?:examples|experiments)/[a-z_]+\.py)", line):
            if not (REPOSITORY / script).is_file():
                yield f"python {script}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_a_document_says_to_type_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    assert list(problems(text)) == []
    links = [link for link in LINK.findall(FENCED.sub("", text)) if not (document.parent / link).exists()]
    assert links == [], "links to missing files"


@pytest.mark.parametrize(
    "wrong",
    [
        "`fab statsu`",
        "```sh\nfab status --wach\n```",
        "`ansible-playbook playbooks/deply.yml -i inventory/vms`",
        "`ansible-playbook deploy.yml -i inventory/vm`",
        "`ansible-playbook playbooks/reset.yml -e confrm=book`",
        "`make tset`",
        "`python experiments/replication_speed.py`",
        "`python examples/store_cat.py`",
    ],
)
def test_what_does_not_exist_is_found(wrong: str) -> None:
    assert list(problems(wrong))


PATH = re.compile(r"`((?:agent|docs|experiments|ops|playbooks|roles|tests)/[\w/.-]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_files_that_a_document_names_exist(document: Path) -> None:
    """A reader who follows the page finds what it names."""
    missing = [path for path in PATH.findall(document.read_text("utf-8")) if not _exists(path)]
    assert missing == []


def _exists(path: str) -> bool:
    # Results of experiments are named by the folder that a run makes.
    return (REPOSITORY / path).exists() or path.startswith("experiments/results/NAME")


def test_the_runbook_knows_every_error_code_and_playbook() -> None:
    text = (REPOSITORY / "docs" / "runbook.md").read_text("utf-8")
    missing = [code for code in {*CAUSES, *codes(errors.RainStormError)} if f"`{code}`" not in text]
    assert missing == []
    plays = [file for file in (REPOSITORY / "playbooks").glob("*.yml") if not _is_part(file)]
    assert [file.name for file in plays if file.name not in text] == []


def test_the_index_of_decisions_has_each_one_with_its_title_and_status() -> None:
    folder = REPOSITORY / "docs" / "adr"
    rows = [line.split(" | ") for line in (folder / "README.md").read_text("utf-8").splitlines()]
    listed = [(row[1], row[3].rstrip(" |")) for row in rows if row[0].removeprefix("| ").isdigit()]
    wanted = []
    for file in sorted(folder.glob("[0-9]*.md")):
        title, _, status = file.read_text("utf-8").splitlines()[:3]
        number, words = title.removeprefix("# ").split(". ", 1)
        assert int(number) == int(file.name[:4])
        wanted.append((f"[{words}]({file.name})", status.removeprefix("Status: ")))
    assert listed == wanted


def test_the_map_of_the_documents_names_each_one() -> None:
    text = (REPOSITORY / "docs" / "README.md").read_text("utf-8")
    wanted = [file.name for file in (REPOSITORY / "docs").glob("*.md") if file.name != "README.md"]
    assert [name for name in wanted if f"({name})" not in text] == []
    roles = [f"roles/{folder.name}/README.md" for folder in REPOSITORY.glob("roles/*") if folder.is_dir()]
    assert [name for name in roles if name not in text] == []


def codes(root: type[errors.RainStormError]) -> set[str]:
    """Returns the codes of an error and its subclasses, without those that only experiments raise."""
    children = [each for each in root.__subclasses__() if each.__module__.startswith(("agent.", "ops."))]
    return {root.code}.union(*(codes(child) for child in children))


def _is_part(file: Path) -> bool:
    """Tells whether a playbook exists only to be imported by others."""
    found = re.compile(rf"import_playbook: (?:playbooks/)?{re.escape(file.name)}")
    imported = any(found.search(other.read_text("utf-8")) for other in file.parent.glob("*.yml"))
    return imported and yaml.safe_load(file.read_text("utf-8")) is not None and file.name != "deploy.yml"
