"""What mkdocs does not do by itself: README as the first page, linked files outside docs/, and one API page per folder.

Links in the Markdown are those of the repository, so that the pages read well on a code host, too. On the site a linked
file outside docs/ is a page below source/: Markdown as it is, other text as a listing.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"```.*?```|`[^`\n]*`|\]\((?!\w+:|#)([^)#\s]+)", re.DOTALL)
"""Code, or in group 1 the target of a link to a file."""

API = ("lps", "sweeps", "analysis")
SUFFIXES = {".py": "python", ".yaml": "yaml", ".toml": "toml", "": "text"}
"""Suffix of a file that becomes a listing -> its language."""


def on_config(config):
    """Add the API pages to the navigation."""
    config.nav.append({"API": [{folder: f"api/{folder}.md"} for folder in _folders()]})
    return config


def on_files(files, config):
    """Add README.md, the files outside docs/ that pages link to, and the API pages."""
    todo = ["README.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    known = set(todo)
    while todo:
        name = todo.pop()
        if _place(name) not in files.src_uris:
            files.append(_generated(config, name))
        if name.endswith(".md"):
            paths = {_repository_path(name, target) for target in LINK.findall(_text(name)) if target}
            linked = {path for path in paths if (ROOT / path).is_file() or _is_listing(path)} - known
            todo += sorted(linked)  # mkdocs reports links to nowhere
            known |= linked
    for folder, modules in _folders().items():
        content = f"# {folder}\n\n" + "".join(f"::: {module}\n\n" for module in modules)
        files.append(File.generated(config, f"api/{folder}.md", content=content))
    return files


def _generated(config, name):
    """The file of the repository `name` as a file of the site."""
    suffix = Path(name).suffix
    if not name.startswith("docs/") and suffix in SUFFIXES:
        text = f"# {name}\n\n````{SUFFIXES[suffix]}\n{(ROOT / name).read_text()}\n````\n"
        return File.generated(config, _place(name), content=text)
    if suffix == ".md":
        return File.generated(config, _place(name), content=_with_links(name))
    return File.generated(config, _place(name), abs_src_path=str(ROOT / name))


def on_page_markdown(markdown, page, config, files):
    """Let the links of a page in docs/ point to the files of the site."""
    return markdown if page.file.generated_by else _with_links(f"docs/{page.file.src_uri}", markdown)


def _with_links(name, markdown=None):
    """The Markdown of a file of the repository with links to the files of the site."""
    here = posixpath.dirname(_place(name)) or "."

    def target(match):
        if not match[1]:
            return match[0]
        return "](" + posixpath.relpath(_place(_repository_path(name, match[1])), here)

    return LINK.sub(target, _text(name) if markdown is None else markdown)


def _is_listing(name):
    """Whether the page lists the files of a folder that has no README."""
    return Path(name).name == "README.md" and (ROOT / name).parent.is_dir() and not (ROOT / name).exists()


def _text(name):
    """The Markdown of a file of the repository, or of a listing."""
    if not _is_listing(name):
        return (ROOT / name).read_text()
    files = (file.name for file in sorted((ROOT / name).parent.iterdir()) if file.is_file())
    return f"# {posixpath.dirname(name)}\n\n" + "\n".join(f"- [{file}]({file})" for file in files)


def _repository_path(name, target):
    """The path from the top of the repository of a link's target in the file `name`."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def _place(name):
    """The path on the site of a file of the repository."""
    if name == "README.md":
        return "index.md"
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    suffix = ".md" if Path(name).suffix in SUFFIXES else ""
    return f"source/{name}{suffix}"


def _folders():
    """Folder with modules, dotted -> the names of its modules."""
    folders = {}
    for package in API:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not path.name.startswith("__main__"):
                folder = os.path.relpath(path.parent, ROOT).replace(os.sep, ".")
                folders.setdefault(folder, []).append(module)
    return {folder: sorted(modules) for folder, modules in sorted(folders.items())}
