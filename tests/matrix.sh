#!/usr/bin/env bash
# Run the quick tests on every Python that the package claims, then with the lowest versions that it declares.
#
#     tests/matrix.sh                 # 3.11 3.12 3.13 lowest
#     tests/matrix.sh 3.13 lowest
#
# Needs uv (pip install uv) and the interpreters, from uv or pyenv. Each environment takes up to 7 GB while its
# tests run. PYTEST_ARGS: more arguments for pytest, such as "-n 0".
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d "${TMPDIR:-/tmp}/diffedit-matrix-XXXXXX")
trap 'rm -rf "$folder"' EXIT
if command -v pyenv >/dev/null; then PYENV_VERSION=$(pyenv versions --bare | paste -sd:); export PYENV_VERSION; fi

[ $# -gt 0 ] || set -- 3.11 3.12 3.13 lowest
failed=()
for name in "$@"; do
    echo "== $name"
    versions=(--constraint constraints.txt) python=$name
    if [ "$name" = lowest ]; then versions=(--resolution lowest-direct) python=3.11; fi
    uv venv --quiet --python "$python" "$folder/$name"
    uv pip install --quiet --python "$folder/$name" "${versions[@]}" --editable '.[dev]'
    # shellcheck disable=SC2086
    PATH="$folder/$name/bin:$PATH" "$folder/$name/bin/python" -m pytest ${PYTEST_ARGS:-} || failed+=("$name")
    rm -rf "${folder:?}/$name"
done
[ ${#failed[@]} = 0 ] || { echo "Failed: ${failed[*]}"; exit 1; }
echo "All passed."
