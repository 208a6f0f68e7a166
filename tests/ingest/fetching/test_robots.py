"""robots.txt and X-Robots-Tag as hosts write them, and their effect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from raypipe.ingest.fetching.robots import READ_BYTES, RobotsRules, forbidding_directive, product_token, robots_url

US = "raypipe/0.1.0 (+https://example.org/bot)"
HOST = "https://example.org"


@pytest.mark.parametrize(
    ("agent", "token"),
    [
        (US, "raypipe"),
        ("raypipe", "raypipe"),
        ("  raypipe (contact)", "raypipe"),
        ("My-Bot_2/3.1", "My-Bot_2"),
        ("Mozilla/5.0 (compatible; Somebot/2.0; +http://example.org)", "Somebot"),
        ("Mozilla/5.0 (X11; Linux x86_64)", "Mozilla"),
        ("raypipe/1 (compatible; Somebot/2.0)", "raypipe"),
        ("", ""),
    ],
)
def test_robot_name_is_read_from_user_agent(agent: str, token: str) -> None:
    assert product_token(agent) == token


@pytest.mark.parametrize(
    ("url", "robots"),
    [
        ("https://example.org/a/b.jpg?c=d#e", "https://example.org/robots.txt"),
        ("http://example.org:8080", "http://example.org:8080/robots.txt"),
        ("https://user:word@example.org/", "https://example.org/robots.txt"),
        ("http://[::1]:81/x", "http://[::1]:81/robots.txt"),
        ("http://bücher.example/x", "http://xn--bcher-kva.example/robots.txt"),
    ],
)
def test_robots_url_is_at_origin_root(url: str, robots: str) -> None:
    assert str(robots_url(URL(url))) == robots


@pytest.mark.parametrize(
    ("lines", "path", "allowed"),
    [
        # No rules that apply.
        ("", "/a.jpg", True),
        ("<!DOCTYPE html><p>Page not found: /robots.txt</p>", "/a.jpg", True),
        ("Disallow: /", "/a.jpg", True),
        ("User-agent: *\nDisallow:", "/a.jpg", True),
        # One group for all robots.
        ("User-agent: *\nDisallow: /", "/a.jpg", False),
        ("user-AGENT:*\r\ndisallow:/pictures # all of them\r\n", "/pictures/a.jpg", False),
        ("User-agent: *\rDisallow: /pictures\r", "/pictures/a.jpg", False),
        ("\ufeffUser-agent: *\nDisallow: /", "/a.jpg", False),
        ("User-agent: *\nDisallow: /pictures/", "/pictures", True),
        ("User-agent: *\nDisallow: /PICTURES/", "/pictures/a.jpg", True),
        ("User-agent: *\n\nSitemap: https://example.org/map.xml\n\nDisallow: /", "/a.jpg", False),
        # A group that names us replaces the others, but only if it has our full name.
        ("User-agent: *\nDisallow: /\n\nUser-agent: raypipe\nDisallow: /private", "/a.jpg", True),
        ("User-agent: RayPipe\nDisallow: /\n\nUser-agent: *\nAllow: /", "/a.jpg", False),
        ("User-agent: raypipe/0.1\nDisallow: /", "/a.jpg", False),
        ("User-agent: other\nUser-agent: raypipe\nDisallow: /", "/a.jpg", False),
        ("User-agent: raypipe\nDisallow: /x\n\nUser-agent: raypipe\nDisallow: /a", "/a.jpg", False),
        ("User-agent: ray\nDisallow: /", "/a.jpg", True),
        ("User-agent: raypipe-images\nDisallow: /", "/a.jpg", True),
        ("User-agent: ray\nAllow: /\n\nUser-agent: *\nDisallow: /", "/a.jpg", False),
        ("User-agent: example\nDisallow: /", "/a.jpg", True),
        ("User-agent: *bot*\nDisallow: /", "/a.jpg", True),
        ("User-agent: us\nUser-agent: others\nDisallow: /", "/a.jpg", True),
        # The longest rule applies. If two are equally long, Allow applies.
        ("User-agent: *\nAllow: /p\nDisallow: /", "/page", True),
        ("User-agent: *\nAllow: /pictures\nDisallow: /pictures/", "/pictures/a.jpg", False),
        ("User-agent: *\nDisallow: /folder\nAllow: /folder", "/folder/page", True),
        ("User-agent: *\nDisallow: /*.jpg$\nAllow: /", "/a.jpg", False),
        ("User-agent: *\nDisallow: /*.jpg$\nAllow: /", "/a.jpg?size=2", True),
        ("User-agent: *\nDisallow: /*?size=", "/a.jpg?size=2", False),
        ("User-agent: *\nDisallow: /a/*/c", "/a/b/b/c", False),
        # Different spellings of a path are the same path.
        ("User-agent: *\nDisallow: /b%C3%BCcher", "/bücher/a.jpg", False),
        ("User-agent: *\nDisallow: /bücher", "/b%c3%bccher/a.jpg", False),
        ("User-agent: *\nDisallow: /%7Eme", "/~me/a.jpg", False),
        # robots.txt itself is always allowed.
        ("User-agent: *\nDisallow: /", "/robots.txt", True),
    ],
)
def test_rules_allow_or_forbid_paths(lines: str, path: str, allowed: bool) -> None:
    assert RobotsRules(200, lines.encode()).allows(f"{HOST}{path}", US) is allowed


@pytest.mark.parametrize(
    ("status", "allowed", "unreachable"),
    [
        (200, False, False),
        (206, False, False),
        (400, True, False),
        (401, True, False),
        (403, True, False),
        (404, True, False),
        (429, True, False),
        (301, False, True),
        (500, False, True),
        (503, False, True),
        (None, False, True),
    ],
)
def test_http_status_decides_what_robots_allows(status: int | None, allowed: bool, unreachable: bool) -> None:
    rules = RobotsRules(status, b"User-agent: *\nDisallow: /a")
    assert (rules.allows(f"{HOST}/a.jpg", US), rules.unreachable) == (allowed, unreachable)
    assert rules.allows(f"{HOST}/b.jpg", US) is not unreachable


def test_only_the_first_500_kib_are_read() -> None:
    rule = b"User-agent: *\nDisallow: /a\n"
    assert not RobotsRules(200, b"#" * (READ_BYTES - len(rule) - 1) + b"\n" + rule).allows(f"{HOST}/a.jpg", US)
    assert RobotsRules(200, b"#" * READ_BYTES + b"\n" + rule).allows(f"{HOST}/a.jpg", US)


def test_invalid_utf8_does_not_hide_rules() -> None:
    assert not RobotsRules(200, b"# caf\xe9 \xff\xfe\x00\nUser-agent: *\nDisallow: /a\n").allows(f"{HOST}/a.jpg", US)


def test_many_user_agents_cost_linear_time() -> None:
    # Each rule applies to 20,000 robots, which would be 500 million rules if written out.
    body = b"".join(b"User-agent: %x\n" % i for i in range(20_000)) + b"Disallow: /a\n" * 25_000
    assert RobotsRules(200, body).allows(f"{HOST}/a.jpg", US)


@given(st.one_of(st.none(), st.integers(100, 599)), st.binary(max_size=300), st.text(max_size=30), st.text(max_size=20))
def test_any_robots_txt_and_url_are_handled(status: int | None, body: bytes, path: str, agent: str) -> None:
    rules = RobotsRules(status, body)
    url = str(URL(HOST) / path.lstrip("/")) if "/../" not in f"/{path}/" and "/./" not in f"/{path}/" else HOST
    assert isinstance(rules.allows(url, agent), bool)
    delay = rules.delay(agent)
    assert delay is None or 0 < delay <= 60


_WORDS = ["User-agent: *", "User-agent: raypipe", "User-agent: ray", "Disallow: /", "Disallow: /a", "Allow: /a/b", ""]


@given(st.lists(st.sampled_from(_WORDS), max_size=12), st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/b"]))
def test_rules_match_plain_reading_of_rfc_9309(lines: list[str], path: str) -> None:
    """A second implementation of RFC 9309, section 2.2, for rules without wildcards."""
    groups: list[tuple[list[str], list[tuple[str, str]]]] = []
    for line in filter(None, lines):
        field, value = line.split(": ")
        if field == "User-agent":
            if not groups or groups[-1][1]:
                groups.append(([], []))
            groups[-1][0].append(value)
        elif groups:
            groups[-1][1].append((field, value))
    names = {name for agents, _ in groups for name in agents}
    ours = "raypipe" if "raypipe" in names else "*"
    rules = [rule for agents, of in groups if ours in agents for rule in of if path.startswith(rule[1])]
    deciding = max(rules, key=lambda rule: (len(rule[1]), rule[0] == "Allow"), default=("Allow", ""))
    assert RobotsRules(200, "\n".join(lines).encode()).allows(HOST + path, US) == (deciding[0] == "Allow")


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ("User-agent: *\nDisallow: /a", None),
        ("User-agent: *\nCrawl-delay: 2.5", 2.5),
        ("User-agent: *\nRequest-rate: 1/10", 10.0),
        ("User-agent: *\nRequest-rate: 4/1m 0900-1700", 15.0),
        ("User-agent: *\nRequest-rate: 1/10\nCrawl-delay: 20", 20.0),
        ("User-agent: *\nCrawl-delay: 86400", 60.0),
        ("User-agent: *\nCrawl-delay: 0", None),
        ("User-agent: *\nCrawl-delay: -3", None),
        ("User-agent: *\nCrawl-delay: soon", None),
        ("User-agent: *\nCrawl-delay: inf", None),
        ("User-agent: *\nCrawl-delay: nan", None),
        (
            "User-agent: ray\nCrawl-delay: 9\n\nUser-agent: raypipe\nCrawl-delay: 3\n\nUser-agent: *\nCrawl-delay: 5",
            3.0,
        ),
    ],
)
def test_crawl_delay_is_read(lines: str, seconds: float | None) -> None:
    assert RobotsRules(200, lines.encode()).delay(US) == seconds


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        ([], None),
        ([""], None),
        (["all"], None),
        (["noindex"], "noindex"),
        (["none"], "none"),
        (["NoAI, NoImageAI"], "noai"),
        (["noimageai"], "noimageai"),
        (["noimageindex"], "noimageindex"),
        (["nofollow, noarchive", "noai"], "noai"),
        (["index, follow, max-image-preview: large, max-snippet: -1, max-video-preview: -1"], None),
        (["max-image-preview: large, noindex"], "noindex"),
        (["noarchive", "unavailable_after: 25 Jun 2010 15:00:00 PST"], None),
        (["unavailable_after: Friday, 25-Jun-10 15:00:00 UTC, noindex"], "noindex"),
        (["unavailable_after: 2010-06-25T15:00:00Z, noai"], "noai"),
        # A robot's name applies to all directives that follow in the header.
        (["googlebot: noindex"], None),
        (["otherbot: noindex, nofollow, noai"], None),
        (["googlebot: nofollow", "otherbot: noindex, nofollow"], None),
        (["googlebot: noindex", "noai"], "noai"),
        (["raypipe: noindex"], "noindex"),
        (["RayPipe: nofollow, noai"], "noai"),
        (["ray: noindex"], None),
        (["raypipe-images: noindex"], None),
        (["*: noindex"], "noindex"),
        # Headers joined by a proxy.
        (["googlebot: nofollow, raypipe: noindex"], "noindex"),
        (["raypipe: nofollow, googlebot: noindex"], None),
        (["noai, googlebot: noindex"], "noai"),
        (["googlebot: unavailable_after: 25 Jun 2010 15:00:00 PST, noindex"], None),
        (["noindexing, none-of-it, noa"], None),
        (["noai; noimageai"], "noai"),
        (["nofollow noindex"], "noindex"),
    ],
)
def test_x_robots_tag_directives_are_read(values: list[str], directive: str | None) -> None:
    assert forbidding_directive(values, US) == directive


_ALLOWING = st.sampled_from(
    ["all", "nofollow", "noarchive", "max-snippet: 20", "unavailable_after: 1 May 2030 10:00:00"]
)
_FORBIDDING = st.sampled_from(["noai", "noimageai", "noindex", "noimageindex", "none"])
_OTHERS = st.sampled_from(["googlebot", "otherbot", "Bingbot"])


@given(st.lists(_ALLOWING, max_size=3), _FORBIDDING, st.lists(_ALLOWING, max_size=3), _OTHERS, st.booleans())
def test_directive_counts_only_if_addressed_to_us(
    before: list[str], directive: str, after: list[str], other: str, upper: bool
) -> None:
    parts = [*before, directive.upper() if upper else directive, *after]
    assert forbidding_directive([", ".join(parts)], US) == directive
    assert forbidding_directive(parts, US) == directive
    assert forbidding_directive([f"raypipe: {','.join(parts)}"], US) == directive
    assert forbidding_directive([f"{other}: {', '.join(parts)}", *before, *after], US) is None
