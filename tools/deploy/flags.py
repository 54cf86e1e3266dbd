"""The options that each subcommand of gemma-xla has."""

import re
import subprocess

FIELD = re.compile(r"#\[(?:arg|command)\((?P<attributes>(?:[^()\[\]]|\([^()]*(?:\([^()]*\)[^()]*)*\))*)\)\]\s*"
                   r"(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?(?P<name>\w+):\s*(?P<type>[\w:<>]+)", re.DOTALL)


def of_binary(binary, subcommand):
    """The options that its help names."""
    text = subprocess.run([binary, subcommand, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^\s+(?:-\w, )?--([a-z][a-z0-9-]*)", text, re.MULTILINE))


def of_source(root, subcommand):
    """The options that the structs of the command line declare."""
    structs = {}
    for path in sorted((root / "src/cli").rglob("*.rs")):
        text = re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)
        for found in re.finditer(r"pub struct (\w+Args) \{\n(.*?)\n\}", text, re.DOTALL):
            structs[found[1]] = found[2]
    top = f"{subcommand.title()}Args"
    if top not in structs:
        raise SystemExit(f"error: {root}/src/cli: no struct {top}; give --binary")
    options = set()
    waiting = [top]
    while waiting:
        for field in FIELD.finditer(structs[waiting.pop()]):
            attributes = field["attributes"]
            if "flatten" in attributes:
                waiting.append(field["type"])
                continue
            long = re.search(r"\blong\b(?:\s*=\s*\"([^\"]+)\")?", attributes)
            if long:
                options.add(long[1] or field["name"].replace("_", "-"))
    return options
