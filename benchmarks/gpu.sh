#!/usr/bin/env bash
# Runs all GPU benchmarks with the installed packages: benchmarks/gpu.sh [PART ...]
# Each part takes less than ten minutes and writes its records to benchmarks/results/. If a part cannot run, it says why,
# and the script continues. TRY_ON_CPU=1 tests the script without a GPU, at sizes that a CPU can handle.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# Leave memory for PyTorch: JAX would preallocate three quarters of it.
export XLA_PYTHON_CLIENT_PREALLOCATE="${XLA_PYTHON_CLIENT_PREALLOCATE:-false}"

PARTS=("$@")
[ $# -gt 0 ] || PARTS=(correct train-base train-big decode lengths startup)
failed=()

run() {
    echo "=== $*"
    timeout 590 "$PYTHON" "$@" || failed+=("$*: exit $?")
}

platform="$("$PYTHON" -c 'import jax; print(jax.default_backend())')" || exit 1
if [ "$platform" != gpu ] && [ -z "${TRY_ON_CPU:-}" ]; then
    echo "no GPU here: JAX runs on $platform" >&2
    exit 1
fi
small=()
if [ "$platform" != gpu ]; then
    small=(--tokens 256 --rounds 1)
    BENCHMARK_RESULTS="$(mktemp -d)" # do not keep these measurements
    export BENCHMARK_RESULTS
fi

for part in "${PARTS[@]}"; do
    case "$part" in
        correct) run -m pytest -q -n 0 -p no:cacheprovider tests/transformer ;;
        train-base | train-big) run -m benchmarks.train "${part#train-}" "${small[@]}" --profile ;;
        decode)
            if [ "$platform" = gpu ]; then
                run -m benchmarks.decode --random base --batch-size 512
            else
                run -m benchmarks.decode --random base --count 8 --rounds 1
            fi
            ;;
        lengths) if [ "$platform" = gpu ]; then run -m benchmarks.lengths; else run -m benchmarks.lengths --longest 512; fi ;;
        startup) if [ "$platform" = gpu ]; then run -m benchmarks.startup base; else run -m benchmarks.startup base --tokens 256; fi ;;
        *) failed+=("$part: no such part; there are: correct train-base train-big decode lengths startup") ;;
    esac
done

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
