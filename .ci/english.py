"""Reports wording that the project's style rules out, with what to write instead. Usage: english.py [FILE ...]"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_PER = "second|step|rank|line|seed|file|token|record|sequence|node|socket|core|layer|hour|shard|epoch|host|article"
_COUNTED = (
    "bytes|examples|files|lengths|lines|maps|matrices|predictions|processes|products|"
    "ranks|records|samples|seconds|sequences|shards|steps|times|tokens"
)
_RULES = {
    r"\btold\b|\btells?\b|\btelling\b|\b_tell\w*": "report, log, print, show, return, or distinguish",
    r"\bg(o|oes|one|oing) on\b|\bwent on\b": "continue, or resume from",
    r"\banew\b": "again, new, or from scratch",
    r"\bmend(s|ed|ing)?\b": "fix, or repair",
    r"\bfor want of\b": "because … is missing",
    r"\bthereof\b|\bas of late\b|\bthat which\b": "a plain noun",
    r"(?<!here )\b(is|are|was|were|be) no (?!longer|more|less|fewer|different|better|worse)": "is not a …",
    r"\bwhat it (is|was|has|had|does|did|says|said)\b": "a noun: the records, the settings, the caller",
    r"\blet(s|ting)? go of\b": "release, or free",
    r"\bgive(s|n)? away\b": "release, or free",
    r"\bhas to be believed\b": "must be trusted",
    r"\b(befell|befalls|befallen)\b": "the error raised by …",
    rf"\b({_COUNTED})( of \w+)? an? ({_PER})\b": "per second, per step, …",
    r"\ban? (sentence|article|paragraph|host|line|event) a (line|file|step)\b": "one … per line",
    r"\bonce an? (seed|rank|step|line|process)\b": "once per …",
    r"\bof the run's own\b": "the run's …",
    r"\bfor (\w+, )?its(, \w+)? in\b|\bits\[|\bits\.": "a noun as the variable's name",
    r"\bfigures\b": "metrics, values, or measurements (a figure is a picture)",
    r"\bwho(ever)? (trains|asks|writes|reads|calls|waits)\b": "the caller, the training loop, the user",
    r"\bto (hand|leave) (it )?what\b": "a noun",
    r"\bcan(not)? be had\b": "is (not) available",
    r"\bwill (not )?do\b|\bat hand\b": "suffice, or available",
    r"\b(its|their) likes?\b": "and similar ones",
    r"\bhand(s|ed|ing)? on\b": "pass on",
    r"\bheed(s|ed)?\b|\bminded\b": "respect, or use",
    r"\bmisspelt\b": "misspelled",
    r"\b(whence|wherein|hereby|herein|whereof)\b|\bfor lack of\b": "because …, or in which",
}
_SUFFIXES = {".py", ".md", ".sh", ".cpp", ".h", ".yaml", ".yml", ".toml", ".ipynb", ".j2", ".jinja"}


def main(arguments: list[str]) -> int:
    """Check the files named, or all files that git tracks; return 1 if anything was found."""
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    names = arguments or [name for name in tracked if not name.startswith("licenses/")]
    found = 0
    for path in map(Path, names):
        if path.name == Path(__file__).name or not path.is_file():
            continue
        if path.suffix not in _SUFFIXES and path.name not in ("Makefile", "Dockerfile", "run"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for pattern, instead in _RULES.items():
                if match := re.search(pattern, line, re.IGNORECASE):
                    print(f"{path}:{number}: {match[0]!r}: write {instead}")
                    found += 1
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
