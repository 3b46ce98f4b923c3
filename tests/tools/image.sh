#!/bin/sh
echo "image: not written yet" >&2
exit 1
