#!/usr/bin/env bash
# Runs the GPU benchmarks with the installed packages, in eleven minutes at most: benchmarks/gpu.sh [PART ...]
#
# The parts of the first stage (kernels train-base plain-base train-big profile decode) compile at the same time, and are
# timed one after another, under a lock. Then come peers, decode-peers, lengths and startup, each alone. A part prints
# and records a figure as soon as it has it, so a part that is killed keeps what it measured. If a part cannot run, it
# says why, and the script continues. `correct` runs the tests of transformer/ on the GPU; only if it is named.
#
# Records are written to benchmarks/results/, or to $BENCHMARK_RESULTS. LIMIT is the time limit in seconds.
# TRY_ON_CPU=1 tests the script without a GPU, at sizes that a CPU can handle.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# Allocate memory as needed: several programs share the GPU.
export XLA_PYTHON_CLIENT_PREALLOCATE="${XLA_PYTHON_CLIENT_PREALLOCATE:-false}"
# What the first stage compiles, the later parts find here.
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$scratch/cache}" BENCHMARK_LOCK="$scratch/lock"

FIRST=(kernels train-base plain-base train-big profile decode)
THEN=(peers decode-peers lengths startup)
PARTS=("$@")
[ $# -gt 0 ] || PARTS=("${FIRST[@]}" "${THEN[@]}")
END=$((SECONDS + ${LIMIT:-660}))
failed=()

platform="$("$PYTHON" -c 'import jax; print(jax.default_backend())')" || exit 1
if [ "$platform" != gpu ] && [ -z "${TRY_ON_CPU:-}" ]; then
    echo "no GPU here: JAX runs on $platform" >&2
    exit 1
fi
few=() tiny=() sentences=(--batch-size 512) longest=() tokens=()
if [ "$platform" != gpu ]; then
    few=(--tokens 256 --rounds 1) tiny=(--rows 2 --width 80 --vocabulary 3000 --rounds 1)
    sentences=(--count 8 --rounds 1) longest=(--longest 512) tokens=(--tokens 256)
    export BENCHMARK_RESULTS="$scratch/results" # do not keep these measurements
fi

# part NAME: one part, for at most the time that is left
part() {
    local left=$((END - SECONDS))
    [ "$left" -gt 0 ] || { echo "$1: no time left"; return 1; }
    case "$1" in
        kernels) set -- -m benchmarks.kernels "${tiny[@]}" ;;
        train-*) set -- -m benchmarks.train "${1#train-}" "${few[@]}" --alone ;;
        plain-*) set -- -m benchmarks.train "${1#plain-}" "${few[@]}" --alone --no-kernels ;;
        # CUDA graphs hide the operations from the profiler.
        profile) local XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_command_buffer="
            export XLA_FLAGS
            set -- -m benchmarks.train base "${few[@]}" --alone --profile ;;
        decode) set -- -m benchmarks.decode --random base "${sentences[@]}" --alone ;;
        peers) set -- -m benchmarks.train base "${few[@]}" ;;
        decode-peers) set -- -m benchmarks.decode --random base "${sentences[@]}" ;;
        lengths) set -- -m benchmarks.lengths "${longest[@]}" ;;
        startup) set -- -m benchmarks.startup base "${tokens[@]}" ;;
        correct) set -- -m pytest -q -n 0 -p no:cacheprovider tests/transformer ;;
        *) echo "$1: no such part; there are: ${FIRST[*]} ${THEN[*]} correct"; return 1 ;;
    esac
    echo "=== $*"
    # The slow one of the peers, PyTorch's compiler, must leave time for the others.
    case "$*" in *"train base"*) [ "$left" -le 240 ] || left=240 ;; esac
    timeout "$left" "$PYTHON" "$@"
}

together=()
for name in "${PARTS[@]}"; do
    case " ${FIRST[*]} " in
        *" $name "*)
            { part "$name" && touch "$scratch/$name.done"; } 2>&1 | sed -u "s/^/$name: /" &
            together+=("$name")
            ;;
    esac
done
wait
for name in "${together[@]}"; do
    [ -e "$scratch/$name.done" ] || failed+=("$name")
done
for name in "${PARTS[@]}"; do
    case " ${FIRST[*]} " in
        *" $name "*) ;;
        *) part "$name" || failed+=("$name") ;;
    esac
done

if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
