"""Secrets and addresses are replaced, and other text is unchanged. All secrets here are artificial."""

import base64
import json
import re
import subprocess
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.filters.redaction import PLACEHOLDERS, find_secrets, replace_secrets


def part(value: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


RANDOM = "q8Zr3TnV0xLw7KpYc5Jd2MgHs9Fb1QuEa4No6Ri"
HEX = "3f9a07c1e84b25d6f0b7c92e"
KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n" + (RANDOM + "+/x=\n") * 5 + "-----END OPENSSH PRIVATE KEY-----"
SECRETS = {
    "GitHub": "ghp_" + RANDOM[:36],
    "GitLab": "glpat-" + RANDOM[:20],
    "AWS": "AKIA" + "Q3VZ7PLK2MWX5T4R",
    "Slack": "xoxb-" + "123456789012-" * 2 + "a1b2c3d4e5f6",
    "Stripe": "sk_live" + "_" + RANDOM[:24],
    "npm": "npm_" + RANDOM[:36],
    "JWT": f"eyJ{part({'alg': 'HS256'})[3:]}.{part({'sub': '1234'})}.{RANDOM}",
    "entropy": RANDOM,
    "hex": HEX,
}
LINES = {
    "npm": 'echo "//registry.npmjs.org/:_authToken={}" > .npmrc',
    "entropy": "pw='{}'",
    "hex": 'curl -H "X-Key: $k" --data "{}"',
}
STAYS = [
    'sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"',
    'commit="4ed352919f69a77ad302ad1593204405adc83b19"',
    "uuid='f81d4fae-7dec-11d0-a765-00a0c91e6bf6'",
    "tr 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789' x",
    'path="/usr/lib/x86_64-linux-gnu/libQt5WebEngineCore-v5"',
    "APACHECONFDIR ",
    "git clone git@github.com:a/b.git; mail user@example.org you@host.example.com",
    "systemctl start getty@tty1.service; macs=umac-64@openssh.com; image@sha256:abc",
    'for f in "${files[@]}"; do echo "$USER@$HOST.net"; done',
    "ping 127.0.0.1 10.1.2.3 192.168.0.1 172.16.3.4 8.8.8.8 255.255.255.0 169.254.1.1 300.1.2.3",
    "# version 93.184.216.34",
    "std::vector fe80::1 ::1 2001:db8::7 12:30:45",
    "grep 'BEGIN RSA PRIVATE KEY' file; echo '-----BEGIN PRIVATE KEY-----$key-----END PRIVATE KEY-----'",
    "https://user:password@host/path",
]


def replaced(text: str) -> tuple[str, Counter[str]]:
    counts: Counter[str] = Counter()
    return replace_secrets(text, counts), counts


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_replaced(name: str) -> None:
    line = "before\n" + LINES.get(name, 'export TOKEN="{}"') + "\nafter"
    assert replaced(line.format(SECRETS[name])) == (line.format("REDACTED_SECRET"), {"secret": 1})


@pytest.mark.parametrize("key", [KEY, KEY.replace("\n", "\\n"), KEY.replace("OPENSSH ", "")])
def test_private_keys_are_replaced(key: str) -> None:
    text, counts = replaced(f"cat <<EOF\n{key}\nEOF\n")
    assert counts == {"private key": 1}
    assert RANDOM not in text
    assert re.search(r"BEGIN (OPENSSH )?PRIVATE KEY-----(\n|\\n)REDACTED_PRIVATE_KEY(\n|\\n)?-----END", text)


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("# by Jo <jo.do-e+x@mail.uni-x.org>,", "# by Jo <user@example.com>,", "e-mail address"),
        ("curl 93.184.216.34:80/x", "curl 192.0.2.1:80/x", "IPv4 address"),
        ("ping6 2606:2800:220:1:248:1893:25c8:1946;", "ping6 2001:db8::1;", "IPv6 address"),
    ],
)
def test_addresses_are_replaced(text: str, expected: str, kind: str) -> None:
    assert replaced(text) == (expected, {kind: 1})


@pytest.mark.parametrize("text", STAYS)
def test_similar_harmless_text_is_kept(text: str) -> None:
    assert replaced(text) == (text, {})


@given(st.lists(st.sampled_from([*SECRETS.values(), KEY, "jo@mail.org", "93.184.216.34", *STAYS, *" \n\"'=#aé/@.:-"])))
def test_text_outside_findings_is_unchanged(parts: list[str]) -> None:
    text = "".join(parts)
    findings = find_secrets(text)
    result, counts = replaced(text)
    rebuilt, done = "", 0
    for start, end, kind in findings:
        assert done <= start < end
        rebuilt += text[done:start] + PLACEHOLDERS[kind]
        done = end
    assert result == rebuilt + text[done:]
    assert counts == Counter(kind for _, _, kind in findings)


@pytest.mark.parametrize("placeholder", PLACEHOLDERS.values())
@pytest.mark.parametrize("line", ["x={}", 'x="{}"', "x='{}'", "echo {} | cat", "f() {{ cmd {}; }}"])
def test_placeholders_are_stable_and_valid_in_shell(placeholder: str, line: str) -> None:
    script = line.format(placeholder)
    assert replaced(script) == (script, {})
    subprocess.run(["bash", "-n", "-c", script], check=True)


def test_long_lines_take_linear_time() -> None:
    """Long runs and many partial matches take linear time; quadratic time would be hours."""
    for text in (
        "a" * 10**6,
        "a.b-" * 250_000,
        "-----BEGIN PRIVATE KEY-----" * 2000,
        "x@" * 300_000,
        "'" + "1a" * 10**5,
    ):
        replaced(text)
