#!/usr/bin/env bash
# A large file in small parts, for a machine that takes small uploads only.
#   tests/quality/parts.sh split FILE FOLDER [MIB]   FOLDER/NAME.00, .01, … of MIB (default 56) each, and FOLDER/NAME.sha256
#   tests/quality/parts.sh join FOLDER NAME FILE     FILE from them; fails, naming what is there, unless it has the digest
# Parts may come one by one: join leaves nothing behind that is not whole.
set -euo pipefail
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
case ${1:-} in
  split)
    if [ $# -lt 3 ] || [ $# -gt 4 ]; then usage; fi
    file=$2 folder=$3 name=$(basename "$2")
    [ -f "$file" ] || { echo "$file is not there" >&2; exit 2; }
    mkdir -p "$folder"
    rm -f "$folder/$name".[0-9][0-9]
    split --bytes "${4:-56}M" --numeric-suffixes --suffix-length 2 "$file" "$folder/$name."
    sha256sum <"$file" | cut -d' ' -f1 >"$folder/$name.sha256"
    ls -l "$folder/$name".*
    ;;
  join)
    [ $# -eq 4 ] || usage
    folder=$2 name=$3 file=$4
    if [ -f "$file" ]; then exit 0; fi
    [ -s "$folder/$name.sha256" ] || { echo "$folder/$name.sha256 is not there" >&2; exit 2; }
    cat "$folder/$name".[0-9][0-9] >"$file.partial"
    if [ "$(sha256sum <"$file.partial" | cut -d' ' -f1)" != "$(cat "$folder/$name.sha256")" ]; then
      rm -f "$file.partial"
      echo "$name: the digest is not that of the whole file; there are: $(cd "$folder" && echo "$name".[0-9][0-9])" >&2
      exit 1
    fi
    mv "$file.partial" "$file"
    ;;
  *) usage ;;
esac
