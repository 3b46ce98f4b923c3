# Steps with a log each, some side by side, and what they add up to. To be sourced by bash.

# What every command builds: one selection, so that all of them find the same dependencies built. The simulation turns on
# planted faults in the crates that it shares with the product, so it is always a command of its own.
product=(--workspace --exclude tidemark-sim)

# begin_steps: gives the steps a folder for their logs. A script that another one runs adds its steps to that one's.
begin_steps() {
    [ -z "${STEPS:-}" ] || return 0
    STEPS="$(pwd)/target/test-logs/run-$$"
    STEPS_BEGAN="$(date +%s)"
    export STEPS STEPS_BEGAN
    mkdir -p "$STEPS"
    touch "$STEPS/table" "$STEPS/failed" "$STEPS/skipped"
    # Commands in the background of a script do not hear Ctrl-C.
    trap 'trap - INT TERM; end_below $$; exit 130' INT TERM
}

# end_below PROCESS: ends everything that a process started.
end_below() {
    local child
    for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do
        end_below "$child"
        kill "$child" 2>/dev/null
    done
}

log_of() { echo "$STEPS/${1//[ :\/]/-}.log"; }

# step NAME COMMAND...: runs it, then shows what it said, and remembers how long it took and whether it failed. Where
# `otherwise` is set a failure is no failure: this machine lacks something, and `otherwise` says what is skipped for that.
step() {
    local name="$1" from state=ok log
    from="$(date +%s)"
    log="$(log_of "$1")"
    shift
    echo "==> $name (tail -f ${log#"$(pwd)"/})"
    "$@" >"$log" 2>&1 || state=FAILED
    local spent=$(($(date +%s) - from))
    (
        # One at a time: steps that run side by side do not mix their words.
        flock 8
        if [ "$state" = FAILED ] && [ -n "${otherwise:-}" ]; then
            state=missing
            skip "$otherwise"
        fi
        [ "$state" != FAILED ] || echo "$name" >>"$STEPS/failed"
        printf '%s\t%s\t%s\t%s\n' "$((from - STEPS_BEGAN))" "$spent" "$state" "$name" >>"$STEPS/table"
        cat "$log"
        echo "<== $name: $state, $spent s"
    ) 8>"$STEPS/lock"
    [ "$state" = ok ]
}

# program_named TARGET: the path of a test program of the crate `tidemark-tests`, once step "build" is through.
program_named() { awk -F '\t' -v folder="$(pwd)/tests" -v target="$1" '$1 == folder && $2 == target { print $3 }' "$(log_of build)"; }

# programs_of VARIANT: the folder of the product's programs that step "build" has made; see binaries.sh.
programs_of() { echo "$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/programs/$1"; }

# export_built: tells tests where the programs and the images are that steps "build", "image" and "demo image" have made.
export_built() {
    TIDEMARK_PROGRAM="$(programs_of demo)/tidemark"
    TIDEMARK_IMAGE="$(tail -n 1 "$(log_of image)")"
    TIDEMARK_DEMO_IMAGE="$(tail -n 1 "$(log_of "demo image")")"
    export TIDEMARK_PROGRAM TIDEMARK_IMAGE TIDEMARK_DEMO_IMAGE
}

# skip WHAT: notes what this machine cannot run. In CI nothing may be missing.
skip() { if [ "${CI:-}" = true ]; then echo "$1" >>"$STEPS/failed"; else echo "$1" >>"$STEPS/skipped"; fi; }

# failures_in LOG...: the errors of compilers, the tests that failed, and each panic on a line with what it says. Together about 2000
# characters: where only the end of a run's output is shown, that is how much of it.
failures_in() {
    awk '
        function end() {
            gsub(/[ \t]+/, " ", panic)
            if (panic != "" && !(panic in known)) { known[panic]; panics[++count] = panic }
            panic = ""
            trace = 0
        }
        FNR == 1 { end() }
        /panicked at/ { end(); panic = $0; lines = 12; next }
        # How the cluster looks comes after the backtrace.
        panic != "" && /^stack backtrace:/ { trace = 1 }
        panic != "" && /^note: / { trace = 0; next }
        trace { next }
        panic != "" && (lines-- == 0 || /^$|^---- |^test |^the cluster.s logs are in /) { end() }
        panic != "" { panic = panic " " $0; next }
        /^test .* FAILED$/ { failed[$2] }
        /^error(\[|:)/ && !($0 in known) && ++errors <= 20 { known[$0]; print }
        END {
            end()
            for (test in failed) {
                said = 0
                for (i = 1; i <= count; i++) said += index(panics[i], "\047" test "\047")
                if (!said) print "test " test " ... FAILED"
            }
            room = int(1600 / (count ? count : 1))
            for (i = 1; i <= count; i++) print substr(panics[i], 1, room > 200 ? room : 200)
        }' "$@"
}

# summary: the table of steps, what failed or was skipped, and how many tests ran. Fails when anything failed.
summary() {
    echo
    printf '%7s  %7s  %-7s %s\n' began seconds "" step
    sort -n "$STEPS/table" | awk -F '\t' '{ printf "%7d  %7d  %-7s %s\n", $1, $2, $3 == "ok" ? "" : $3, $4 }'
    printf '%7s  %7d  %-7s %s\n' "" "$(($(date +%s) - STEPS_BEGAN))" "" "all"
    sed 's/^/skipped: /' "$STEPS/skipped"
    # A reader of the last lines only must see why.
    [ ! -s "$STEPS/failed" ] || failures_in "$STEPS"/*.log
    sed "s|\$| (its log is in $STEPS)|; s/^/failed: /" "$STEPS/failed"
    cat "$STEPS"/*.log | awk -v more="$(cat "$STEPS/uncounted" 2>/dev/null || echo 0)" '
        /^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored + more }'
    [ ! -s "$STEPS/failed" ]
}
