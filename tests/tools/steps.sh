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
    mkdir -p "$STEPS/running"
    touch "$STEPS/table" "$STEPS/failed" "$STEPS/skipped"
    # Commands in the background of a script do not hear Ctrl-C.
    trap 'trap - INT TERM; end_below $$; exit 130' INT TERM
}

# end_below PROCESS [SIGNAL]: ends everything that a process started.
end_below() {
    local child
    for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do
        # Not who ends the others.
        [ "$child" != "$BASHPID" ] || continue
        end_below "$child" "${2:-TERM}"
        kill -s "${2:-TERM}" "$child" 2>/dev/null
    done
}

# end_after SECONDS: ends every step that runs so long after the beginning, and begins no other, so that whoever ends a run that takes
# too long learns from its last lines what hung. To be run in the background.
end_after() {
    local left step
    while left=$((STEPS_BEGAN + $1 - $(date +%s))) && [ "$left" -gt 0 ]; do sleep "$((left < 5 ? left : 5))"; done
    : >"$STEPS/over"
    for step in "$STEPS"/running/*; do
        [ -e "$step" ] || continue
        echo "${step##*/} after $1 s:$(unended_tests "$STEPS/${step##*/}.log")" >>"$STEPS/unended"
        end_below "$(cat "$step")" KILL
    done
}

# unended_tests LOG: the names of the tests that a test program called slow, or began last, and did not end.
unended_tests() {
    awk '
        /^test .* has been running for over/ { slow[$2] }
        /^test .* \.\.\. / { delete slow[$2] }
        { last = $0 }
        END {
            if (last ~ /^test .* \.\.\. *$/) { split(last, words, " "); slow[words[2]] }
            for (test in slow) printf " %s", test
        }' "$1"
}

log_of() { echo "$STEPS/${1//[ :\/]/-}.log"; }

# step NAME COMMAND...: runs it, then shows what it said, and remembers how long it took and whether it failed. Where
# `otherwise` is set a failure is no failure: this machine lacks something, and `otherwise` says what is skipped for that.
step() {
    local name="$1" from state=ok log running
    from="$(date +%s)"
    log="$(log_of "$1")"
    running="$STEPS/running/$(basename "$log" .log)"
    shift
    if [ -e "$STEPS/over" ]; then
        echo "$name" >>"$STEPS/unstarted"
        return 1
    fi
    echo "==> $name (tail -f ${log#"$(pwd)"/})"
    echo "$BASHPID" >"$running"
    "$@" >"$log" 2>&1 || state=FAILED
    rm -f "$running"
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
    [ ! -e "$STEPS/unstarted" ] || sed 's/^/not begun: /' "$STEPS/unstarted"
    [ ! -e "$STEPS/unended" ] || sed 's/^/not ended: /' "$STEPS/unended"
    cat "$STEPS"/*.log | awk -v more="$(cat "$STEPS/uncounted" 2>/dev/null || echo 0)" '
        /^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored + more }'
    [ ! -s "$STEPS/failed" ] && [ ! -e "$STEPS/over" ]
}
