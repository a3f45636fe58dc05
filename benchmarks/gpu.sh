#!/usr/bin/env bash
# Everything that a GPU is needed for, in under 25 minutes: doctor, tests of forces on the GPU on both backends, cost of
# a bias, training, two walkers on one GPU.
#
#   bash benchmarks/gpu.sh wheels DIR         where there is a package index: fetch the wheels of gpu-wheels.txt
#   bash benchmarks/gpu.sh run OUT [DIR]      where the GPU is: with wheels in DIR, no index is needed there
#
# PYTHON names the interpreter (python3), PLATFORM OpenMM's platform (CUDA). PLATFORM=CPU tries all but the GPU itself.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
platform=${PLATFORM:-CUDA}

wheels() {
  local platforms=(--platform manylinux1_x86_64)
  for glibc in 17 24 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 -d "$1" -r "$here/benchmarks/gpu-wheels.txt"
  du -sh "$1"
}

# Run a part within a time limit, keep what it prints, and go on whatever happens to it.
part() {
  local name=$1 limit=$2
  shift 2
  echo "== $name"
  local start=$SECONDS status=0
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1 || status=$?
  tail -n 40 "$out/$name.txt"
  echo "== $name: exit code $status, $((SECONDS - start)) s"
}

run() {
  out=$(mkdir -p "$1" && cd "$1" && pwd)
  if [ $# -gt 1 ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$out/site" "$2"/*.whl
  fi
  export PYTHONPATH="$out/site:$here" OMP_NUM_THREADS=1 LATF_CACHE="$out/cache" LATF_TEST_PLATFORMS=$platform
  cd "$here"
  part doctor 180 "$python" -m latf_sampling.cli.main doctor
  part tests 480 "$python" -m pytest -q -x -p no:cacheprovider tests/cv/test_force.py tests/bias/test_contract.py
  part bias_cost 480 "$python" benchmarks/bias_cost.py --platform "$platform" --markdown "$out/bias_cost.md" \
    --systems ${SYSTEMS:-chignolin water-1000 water-10000 water-100000}
  part gpu 300 "$python" benchmarks/gpu.py --platform "$platform"
}

case ${1:-} in
  wheels) wheels "${2:?give a folder for the wheels}" ;;
  run) shift && run "${@:?give a folder for the results}" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
