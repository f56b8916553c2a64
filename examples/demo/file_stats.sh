#!/bin/sh
# A job of launch `process`: counts a file's lines and words and takes its sha256.
#
# The payload comes on stdin (and in $ROWLOCK_PAYLOAD_FILE), the result goes to $ROWLOCK_RESULT_FILE; what
# is said on stderr becomes the job's error if this exits with anything but 0.
set -eu
export LC_ALL=C # what a word is depends on it

# The path is for people; path_base64 holds its exact bytes, quotes and newlines too, and needs no JSON reader.
encoded=$(sed -n 's/.*"path_base64": *"\([A-Za-z0-9+\/=]*\)".*/\1/p')
if [ -z "$encoded" ]; then
  echo "payload: expected path_base64, a file's path in base64" >&2
  exit 78 # never right by trying again: see no_retry_exit_codes
fi
file=$(printf %s "$encoded" | base64 -d && echo .) # the dot saves a newline at the end
file=${file%.}

lines=$(wc -l <"$file")
words=$(wc -w <"$file")
sha256=$(sha256sum <"$file")
printf '{"lines":%d,"words":%d,"sha256":"%s"}\n' "$lines" "$words" "${sha256%% *}" >"$ROWLOCK_RESULT_FILE"
