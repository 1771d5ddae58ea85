"""Replace secrets and personal addresses in code by placeholders.

The patterns are those of Yelp's detect-secrets without the BasicAuth, Keyword and PrivateKey plugins, with e-mail and
public IP addresses added, as in BigCode's pipeline (bigcode-dataset, Apache-2.0). Whole private keys are replaced.
The plugins' expressions run over whole texts; the library's scanner reads line by line, which is slower, and would
verify secrets over the network. Text outside of the findings is not changed.

Placeholders are reserved for documentation (RFC 2606, 3849, 5737) or plain words, so that a script stays valid with any
quotes around them. They are constant, so that a model does not learn random values.
"""

import importlib
import ipaddress
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from detect_secrets import plugins
from detect_secrets.filters.heuristic import is_likely_id_string, is_potential_uuid
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString, HexHighEntropyString
from detect_secrets.plugins.jwt import JwtTokenDetector

PLACEHOLDERS = {
    "secret": "REDACTED_SECRET",
    "private key": "REDACTED_PRIVATE_KEY",
    "e-mail address": "user@example.com",
    "IPv4 address": "192.0.2.1",
    "IPv6 address": "2001:db8::1",
}
LEFT_OUT = {"base", "basic_auth", "keyword", "private_key", "ip_public", "high_entropy_strings"}
"""Plugins with too many false positives in code, and those whose findings are filtered further (below)."""
PREFIX_GROUP = {"GitHub Token", "GitLab Token"}
"""Plugins whose regex group is the prefix of a token; for the others, the group is the secret."""
LONG_SECRET_PLUGINS = {"Cloudant Credentials", "IBM Cloud IAM Key", "IBM COS HMAC Credentials", "SoftLayer Credentials"}
"""Slow expressions for secrets of 44 characters or more; skipped for texts without such a run."""

LONG_RUN = re.compile(r"[A-Za-z0-9_-]{44}")
PRIVATE_KEY = re.compile(
    r"(-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----)"
    r"""((?:[A-Za-z0-9+/=:,.\s"']|-(?!-)|\\n){64,20000}?)(?=-----END )"""
)
LINE_ENDS = re.compile(r"(?:\s|\\n)*")
WORD = re.compile(r"""[^\s"'`;|&<>(){}\\]+""")
EMAIL = re.compile(
    r"(?<![\w.+%-])[\w+%-](?:[\w.+%-]*[\w+%-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}(?![\w-])"
)
NO_EMAIL = re.compile(
    r"(?i)^(?:git|hg|svn|no-?reply|user|you|me|name|foo|test)@"  # logins of services, and names without a person
    r"|@(?:.*\.)?example(?:\.\w+)?$|\.(?:example|invalid|test|local|localhost|localdomain|internal)$"
    r"|\d@(?:openssh|libssh)\.\w+$"  # algorithms of ssh
    r"|\.(?:service|socket|timer|target|mount|path|slice|device|scope)$"  # instances of systemd units
)
IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w.-])")
IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{2,}(?![\w:.])")
PUBLIC_RESOLVERS = {"1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "208.67.222.222", "208.67.220.220"}
"""Public DNS servers; replacing them would change what a script does."""
VERSION = re.compile(r"(?i)version|release|\$Id|\bv\d")
DIGEST = re.compile(r"(?i)sum|sha\d|sha_|md5|hash|digest|commit|rev|fingerprint|integrity|nonce|uuid")
ALPHABET = re.compile(r"(?i)abcdefgh|12345678")


class Finding(NamedTuple):
    """A range of the text to replace."""

    start: int
    end: int
    kind: str


def _regex_plugins() -> list[RegexBasedDetector]:
    names = sorted({info.name for info in pkgutil.iter_modules(plugins.__path__)} - LEFT_OUT)
    modules = [importlib.import_module(f"{plugins.__name__}.{name}") for name in names]
    classes = [(module, member) for module in modules for member in vars(module).values() if isinstance(member, type)]
    return [
        detector()
        for module, detector in classes
        if issubclass(detector, RegexBasedDetector) and detector.__module__ == module.__name__
    ]


PLUGINS = _regex_plugins()
ENTROPY_PLUGINS = (Base64HighEntropyString(), HexHighEntropyString())


def replace_secrets(text: str, replaced: Counter[str]) -> str:
    """Return the text with placeholders for secrets and addresses; count them in `replaced` by kind."""
    parts: list[str] = []
    done = 0
    for start, end, kind in find_secrets(text):
        parts += text[done:start], PLACEHOLDERS[kind]
        replaced[kind] += 1
        done = end
    return "".join([*parts, text[done:]]) if parts else text


def find_secrets(text: str) -> list[Finding]:
    """Return all findings in order without overlap; of overlapping ones, the first and longest is kept."""
    findings = [
        *_find_private_keys(text),
        *_find_tokens(text),
        *_find_high_entropy_strings(text),
        *_find_addresses(text),
    ]
    chosen: list[Finding] = []
    for finding in sorted(findings, key=lambda item: (item.start, -item.end)):
        if not chosen or finding.start >= chosen[-1].end:
            chosen.append(finding)
    return chosen


def _find_private_keys(text: str) -> Iterator[Finding]:
    if "PRIVATE KEY" in text:
        for match in PRIVATE_KEY.finditer(text):
            start, end = match.span(2)
            start = LINE_ENDS.match(text, start, end).end()  # pyright: ignore[reportOptionalMemberAccess]
            while text.endswith(("\n", "\\n", " "), start, end):
                end -= 2 if text.endswith("\\n", start, end) else 1
            yield Finding(start, end, "private key")


def _find_tokens(text: str) -> Iterator[Finding]:
    has_long_run = LONG_RUN.search(text) is not None
    for plugin in PLUGINS:
        if plugin.secret_type in LONG_SECRET_PLUGINS and not has_long_run:
            continue
        for match in (match for expression in plugin.denylist for match in expression.finditer(text)):
            start, end = _find_secret_span(match, plugin)
            secret = text[start:end]
            if any(map(str.isdigit, secret)):  # without a digit it is a long word
                yield Finding(start, end, "secret")


def _find_secret_span(match: re.Match[str], plugin: RegexBasedDetector) -> tuple[int, int]:
    """Return the range of the secret of a match, since expressions may begin or end at other positions."""
    spans = [match.span(index + 1) for index, group in enumerate(match.groups()) if group]
    start = match.start() if plugin.secret_type in PREFIX_GROUP or not spans else spans[0][0]
    word = WORD.search(match.string, start)
    if word is None or (isinstance(plugin, JwtTokenDetector) and not plugin.is_formally_valid(match.group())):
        return start, start
    return word.span()


def _find_high_entropy_strings(text: str) -> Iterator[Finding]:
    """Find quoted strings of high entropy that are not digests, ids or paths."""
    for plugin, shortest in zip(ENTROPY_PLUGINS, (23, 16), strict=True):  # shorter ones are names and numbers
        for match in plugin.regex.finditer(text):
            secret = match.group(2)
            line = _get_line(text, match.start(2)) if len(secret) >= shortest else ""
            if (
                line
                and any(map(str.isdigit, secret))
                and any(map(str.isalpha, secret))
                and plugin.calculate_shannon_entropy(secret) > plugin.entropy_limit
                and secret.count("/") < 3  # more are a path
                and not (ALPHABET.search(secret) or DIGEST.search(line))
                and not (is_potential_uuid(secret) or is_likely_id_string(secret, line))
            ):
                yield Finding(*match.span(2), "secret")


def _get_line(text: str, place: int) -> str:
    end = text.find("\n", place)
    return text[text.rfind("\n", 0, place) + 1 : end if end >= 0 else len(text)]


def _find_addresses(text: str) -> Iterator[Finding]:
    """Find e-mail addresses and public IP addresses, except version numbers that look like one."""
    if "@" in text:
        for match in EMAIL.finditer(text):
            if not NO_EMAIL.search(match.group()):
                yield Finding(*match.span(), "e-mail address")
    for expression, kind in ((IPV4, "IPv4 address"), (IPV6, "IPv6 address")):
        for match in expression.finditer(text):
            if _is_public_address(match.group()) and not VERSION.search(_get_line(text, match.start())):
                yield Finding(*match.span(), kind)


def _is_public_address(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (
        parsed.is_global and not parsed.is_multicast and address not in PUBLIC_RESOLVERS and not address.endswith(".0")
    )
