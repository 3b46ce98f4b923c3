module tidemark.dev/tools/pause

go 1.26

tool tidemark.dev/tools/pause
