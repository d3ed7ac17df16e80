# What the scripts share. Sourced by them, with the checkout as the working directory.

venv=.venv
ci=${CI:-}

say() { printf '%s\n' "$@"; }
complain() { printf '%s\n' "$@" >&2; }

# Every command that may be a Python. A shim may be there for a version that is not, so none of
# them is believed before it has run.
candidates() {
    local minor
    for minor in 11 12 13 14 15; do
        command -v "python3.$minor" || true
        ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python 2>/dev/null || true
    done
    command -v python3 || true
}

# Print "3.12 /path/to/the/interpreter" for each CPython >= 3.11 that runs and can use TLS, zlib and
# ctypes: once per minor version, the lowest first. One that was built without them is broken.
pythons() {
    local python
    candidates | while read -r python; do
        "$python" -I -c '
import ctypes, ssl, sys, zlib
if sys.version_info >= (3, 11) and sys.implementation.name == "cpython" and sys.prefix == sys.base_prefix:
    print("%d.%d" % sys.version_info[:2], sys.executable)
' </dev/null 2>/dev/null || true
    done | sort -u -t ' ' -k 1,1V
}

# A text that changes when what is to be installed changes.
fingerprint() {
    { pwd; cat pyproject.toml scripts/setup scripts/common.sh; printf '%s\n' "$@"; } | cksum
}
