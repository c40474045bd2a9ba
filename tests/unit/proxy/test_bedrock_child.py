"""What the process that resolves AWS credentials never does, whatever the application's files say: run a program, or read the proxy's files."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmwarden.proxy.aws import keyring


def resolve(folder: Path, config: str, **environment: str) -> dict[str, object]:
    """Run the child on a configuration, as the proxy does; returns what it says."""
    (folder / "config").write_text(config)
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(folder),
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "eu-west-1",
        **environment,
    }
    done = subprocess.run(keyring._CHILD, env=given, capture_output=True, check=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


PROGRAM = "credential_process = {program}\n"


@pytest.mark.parametrize(
    ("config", "environment"),
    [
        ("[default]\n" + PROGRAM, {}),
        ("[profile mine]\n" + PROGRAM, {"AWS_PROFILE": "mine"}),
        (
            "[profile mine]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = other\n[profile other]\n" + PROGRAM,
            {"AWS_PROFILE": "mine"},
        ),
    ],
)
def test_no_program_that_a_profile_names_is_run(tmp_path: Path, config: str, environment: dict[str, str]) -> None:
    ran, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\ntouch {ran}\necho \'{{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "S"}}\'\n'
    )
    program.chmod(0o755)
    answer = resolve(tmp_path, config.format(program=program), **environment)
    assert not ran.exists()
    assert answer == {"error": "ProgramRefusedError"}


@pytest.mark.parametrize("of_a_profile", [True, False])
def test_no_file_of_the_proxy_s_is_sent_as_a_token(tmp_path: Path, *, of_a_profile: bool) -> None:
    """STS would be sent what is in the file, at an address that the application names."""
    link = tmp_path / "token"
    link.symlink_to("/proc/self/environ")
    role = "arn:aws:iam::1:role/r"
    if of_a_profile:
        answer = resolve(tmp_path, f"[default]\nrole_arn = {role}\nweb_identity_token_file = {link}\n")
    else:
        answer = resolve(tmp_path, "", AWS_ROLE_ARN=role, AWS_WEB_IDENTITY_TOKEN_FILE=str(link))
    assert answer == {"error": "FileRefusedError"}


def test_a_private_folder_is_closed_by_any_name(tmp_path: Path) -> None:
    private, other = tmp_path / "private", tmp_path / "other"
    for folder in (private, other):
        folder.mkdir()
        (folder / "file").write_text("text")
    (tmp_path / "link").symlink_to(private)
    (tmp_path / "file").symlink_to(private / "file")
    program = f"""
import io, pathlib
from llmwarden.proxy.aws import child
child.confine(({str(tmp_path / "link")!r},))
assert open({str(other / "file")!r}).read() == "text"
for way in (open, io.open, lambda name: pathlib.Path(name).open()):
    for name in ("private/file", "link/file", "file", "other/../private/file"):
        try:
            way({str(tmp_path)!r} + "/" + name)
        except child.FileRefusedError:
            continue
        raise SystemExit(name)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_keyfile_still_works(tmp_path: Path) -> None:
    answer = resolve(tmp_path, "[default]\naws_access_key_id = A\naws_secret_access_key = S\n")
    assert (answer["accessKey"], answer["secretKey"]) == ("A", "S")


def test_the_refusal_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(_: str | None) -> keyring._Resolved:
        return keyring._Resolved(error="ProgramRefusedError")

    monkeypatch.setattr(keyring, "_ask", ask)
    with pytest.raises(keyring.NoKeysError, match="names a credential_process"):
        asyncio.run(keyring.Keyring(lambda: None).get())
