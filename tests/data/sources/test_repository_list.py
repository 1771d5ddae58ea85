"""Lists of repositories: the included ones are valid, and an invalid one gives one error line."""

from pathlib import Path

import pytest

from src.config.schema import CONF, CorpusConfig, UserError
from src.data.sources.repository_list import Repository, load_repositories


def load(name: str) -> list[Repository]:
    return load_repositories(CorpusConfig(source="git", repositories=name), "code")


@pytest.mark.parametrize("path", sorted((CONF / "repositories").glob("*.yaml")), ids=lambda path: path.stem)
def test_included_lists_are_valid(path: Path) -> None:
    repositories = load(path.stem)
    assert repositories == load(str(path))
    assert all(repository.url.startswith("https://github.com/") for repository in repositories)
    assert len(repositories) >= 44


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/tj/n", "github.com/tj/n"),
        ("https://user:token@github.com/tj/n.git", "github.com/tj/n"),
        ("git@github.com:tj/n.git", "github.com/tj/n"),
        ("ssh://git@host.org:22/a/b/", "host.org:22/a/b"),
        ("file:///some/where/x", "some/where/x"),
    ],
)
def test_repository_names(url: str, name: str) -> None:
    assert Repository(url).name == name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a list of repositories"),
        ("url: https://a.b/c", "must be a list of repositories"),
        ("- https://a.b/c", "entry 1: must have a url"),
        ("- url: https://a.b/c\n- licence: MIT", "entry 2: must have a url"),
        (
            "- url: https://a.b/c\n  branch: x",
            "entry 1: branch: no such key; there are url, commit, licence, subfolder",
        ),
        ("- url: https://a.b/c\n  commit: 1234567", "commit=1234567: must be a text in quotes, or null"),
        ("- url: https://a.b/c\n  commit: main", "commit=main: must be a whole commit, 40 hex digits, or null"),
        ("- url: https://a.b/c\n  subfolder: a/../..", "subfolder=a/../..: must be within the repository"),
        ("- url: ext::sh -c true", "must begin with https://"),
        ("- url: --upload-pack=x", "must begin with https://"),
        ("- url: /local/path", "must begin with https://"),
        ("- url: https://a.b/c\n- url: https://a.b/c.git", "a.b/c is named twice; leave one out"),
        ("- url: [", "not a readable YAML file"),
        ("- !!python/object/apply:os.getcwd []", "not a readable YAML file"),
    ],
)
def test_invalid_lists_are_one_error_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load(str(path))
    assert str(error.value).startswith(f"data.code.repositories={path}: ")
    assert complaint in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["rust", "missing/list.yaml", "list.yml"])
def test_missing_lists_show_the_existing_ones(name: str) -> None:
    with pytest.raises(UserError, match=rf"data\.code\.repositories={name}: no such list; choose one of bash"):
        load(name)
