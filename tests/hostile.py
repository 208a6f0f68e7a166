"""Texts and names with a special meaning in another language, for tests of every place that writes user text."""

from __future__ import annotations

NAMES = (
    "", ".", "..", "../x", "a/b", "/abs", "a\\b", "..\\x", ".hidden", "-x", "_x", "a b", " a", "a\n", "a\nb",
    "a\x00b", "é", "a:b", "~", "$HOME", "%2e%2e", "x" * 65, "\u2024\u2024", "a\u202eb", "*",
)  # fmt: skip
"""Invalid folder names."""

LEADS_OUT = ("..", "../x", "a/../../x", "/etc/passwd", "..\\x", "a/..", "./../x")
"""Paths that a record must not contain."""

TEXTS = (
    "$", "a $ b $ c", "$\\frac{1}{", "\\$x$", "$$", "x^2_1", "%", "#2166ac", "_hidden", "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>', "' onmouseover='x", "&lt;b&gt;", "{{ 7 * 7 }}", "]]>", "--><!--", "</svg>",
    "</style>", "url(#x)", ' id="a"', "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", '=HYPERLINK("http://x","y")',
    "'=1", "''", "a,b;c", '"', "＝1", "[bold]x[/bold]", "[/]", "[red", "\\[x]", ":fire:", "[link=http://x]y[/link]",
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "a\x08b", "a\rb", "a\x00b", "\x7f", "a\u202eb", "\u2066x",
    "a\u2028b", "a|b", "a\\|b", "`x`", "``", "**b**", "# h", "- i", "1. i", "1) i", "> q", "[x](http://x)",
    "![x](http://x/y.png)", "<http://x>", "http://x.example", "www.x.example", "~~s~~", "a_b_c", "---", "===",
    "two\nlines", "| a |", "\\", "[^1]", "null", "yes", "1", "key: value", "- a: b", "!!python/name:os.system",
    "*alias", "&anchor", "%TAG", "\n---\n", "...", "é日本🔥", "e\u0301", " ", "x" * 200,
)  # fmt: skip
"""Names of classes, hashtags, people and files, and texts in files of other people."""
