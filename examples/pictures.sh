#!/usr/bin/env bash
# Makes every picture that the README shows, by the commands that it prints.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p examples/pictures && rm -f examples/pictures/*
grep -E '^    diffedit [a-z]+ .*examples/pictures/' README.md | while read -r line; do
    echo "$line"
    eval "$line" < /dev/null
done
