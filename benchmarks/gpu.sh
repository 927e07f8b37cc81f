#!/usr/bin/env bash
# Everything that this project wants to know of a bare CUDA machine (python with torch, numpy, mujoco, ogbench, pyarrow,
# filelock, pydantic, safetensors, tqdm; no Ray, no network), in one go and resumable:
#
#     benchmarks/gpu.sh MINUTES [OUT]
#     benchmarks/gpu.sh --rehearse [OUT]     # the same on the CPU with everything tiny: about 2 minutes on idle cores
#
# 1. updates per second of every agent, and of LPS compiled and in each precision; time of a decision on CPU and GPU;
# 2. data: 250 episodes of cube-single by OGBench's oracles;
# 3. LPS at the paper's defaults on 5 tasks x 8 seeds, one program of 40 members, for MINUTES (0: not at all);
# 4. the CUDA tests, where pytest is there;
# 5. OUT (default build/gpu/out): curves, rows, plots, logs and a policy of each task, about 40 MB, no file over 16 MB.
#
# Called again it skips what is there and training goes on, as long as $WORK (default build/gpu: data and checkpoints,
# 1 GB) is still there. Other environment variables: PYTHON, STEPS and EVAL_INTERVAL (part of what a run is: keep them
# between calls), PRECISION (float32), COMPILE (yes, no; default: yes if the compiled benchmark worked).
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 2; }
[ $# -ge 1 ] || usage
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
CORES=$(nproc)

if [ "$1" = --rehearse ]; then
  DEVICE=cpu MINUTES=2 WORK=${WORK:-build/gpu-rehearsal} EPISODES=3
  AGENTS="lps flow_bc" MEMBERS="1 2" BENCH="--seconds 0.2 --threads 1" CALLS=20
  STEPS=${STEPS:-60} EVAL_INTERVAL=${EVAL_INTERVAL:-30} SEEDS="0 1" TRAIN="--eval-episodes 1 --eval-workers 1 --log-interval 10 --threads 1 --checkpoint-seconds 5"
  SET="base_hidden=[32,32] critic_hidden=[32,32] latent_actor_hidden=[32] batch_size=32"
  VARIANTS="plain-float32 plain-bf16" COMPILE=${COMPILE:-no}
else
  [[ "$1" =~ ^[0-9]+$ ]] || usage
  DEVICE=cuda MINUTES=$1 WORK=${WORK:-build/gpu} EPISODES=250
  AGENTS="" MEMBERS="1 8 40" BENCH="--seconds 2" CALLS=500
  STEPS=${STEPS:-1000000} EVAL_INTERVAL=${EVAL_INTERVAL:-25000} SEEDS="0 1 2 3 4 5 6 7"
  TRAIN="--eval-workers $((CORES > 2 ? CORES - 2 : 1)) --checkpoint-seconds 120" SET=""
  VARIANTS="compiled-float32 plain-tf32 compiled-tf32 plain-bf16 compiled-bf16" COMPILE=${COMPILE:-}
fi
PRECISION=${PRECISION:-float32}
OUT=${2:-$WORK/out}
RESULTS=$WORK/results
mkdir -p "$WORK/bench" "$WORK/logs" "$OUT"
WORK=$(cd "$WORK" && pwd)
export TORCHINDUCTOR_CACHE_DIR=$WORK/kernels TRITON_CACHE_DIR=$WORK/triton  # what was compiled once stays

say() { echo "[$(date +%T)] $*"; }
# stage NAME COMMAND...: runs it once; a failure is told, noted in its log, and does not stop the rest.
stage() {
  local name=$1; shift
  if [ -e "$WORK/logs/$name.done" ]; then say "$name: done before"; return 0; fi
  say "$name"
  if "$@" > "$WORK/logs/$name.log" 2>&1; then touch "$WORK/logs/$name.done"; else say "$name FAILED:"; tail -n 5 "$WORK/logs/$name.log"; fi
}
throughput() { "$PYTHON" benchmarks/throughput.py --device $DEVICE $BENCH "$@"; }

"$PYTHON" - "$DEVICE" <<'PY' | tee "$WORK/bench/machine.txt"
import sys
try:
    import filelock, mujoco, numpy, ogbench, pyarrow, pydantic, safetensors, torch, tqdm
except ImportError as error:
    sys.exit(f"error: {error}: this machine's python needs torch, numpy, mujoco, ogbench, pyarrow, filelock, pydantic, safetensors and tqdm")
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("error: torch sees no CUDA device; --rehearse runs on the CPU")
name = torch.cuda.get_device_name() if sys.argv[1] == "cuda" else "CPU"
print(f"{name}, torch {torch.__version__}, mujoco {mujoco.__version__}, numpy {numpy.__version__}")
PY

stage throughput throughput --modes plain --members $MEMBERS ${AGENTS:+--agents $AGENTS} --out "$WORK/bench/all"
for variant in $VARIANTS; do
  stage "lps-$variant" throughput --agents lps --members ${MEMBERS##* } --modes ${variant%-*} --precision ${variant#*-} --out "$WORK/bench/lps-$variant"
done
for device in $(printf 'cpu\n%s\n' $DEVICE | sort -u); do
  stage inference-$device "$PYTHON" benchmarks/inference.py --device $device --calls $CALLS ${AGENTS:+--agents $AGENTS} --out "$WORK/bench"
done
stage data "$PYTHON" -m lps collect cube-single-play --episodes $EPISODES --seed 0 --workers "$CORES" \
  --name cube-single-play-gpu --data-dir "$WORK/data"

if [ -z "$COMPILE" ]; then
  if [ -e "$WORK/logs/lps-compiled-$PRECISION.done" ]; then COMPILE=yes; else COMPILE=no; fi
fi
if [ "$MINUTES" -gt 0 ]; then
  say "training for at most $MINUTES minutes (compiled: $COMPILE, $PRECISION)"
  code=0
  # The end of a minute is a kill like any other: what counts is the last checkpoint. (INT would do, but is ignored by
  # what a shell without job control has started in the background.)
  timeout --kill-after=60 "${MINUTES}m" "$PYTHON" -m lps train --agent lps \
    --task cube-single-play-singletask-task{1,2,3,4,5}-v0 --seeds $SEEDS --steps "$STEPS" \
    --eval-interval "$EVAL_INTERVAL" --dataset cube-single-play-gpu --data-dir "$WORK/data" --device $DEVICE \
    --precision "$PRECISION" $([ "$COMPILE" = yes ] && echo --compile) $TRAIN ${SET:+--set $SET} --results "$RESULTS" \
    >> "$WORK/logs/train.log" 2>&1 || code=$?
  case $code in
    0) say "training: every run is done" ;;
    124 | 137) say "training: time is up; the same command goes on" ;;
    *) say "training FAILED ($code):"; tail -n 15 "$WORK/logs/train.log" ;;
  esac
  tr '\r' '\n' < "$WORK/logs/train.log" | grep -aE 'step/s|s/step' | tail -n 1 || true
fi

if "$PYTHON" -c 'import pytest' 2> /dev/null && [ $DEVICE = cuda ]; then  # last, for they compile every agent
  stage cuda-tests "$PYTHON" -m pytest -q tests/test_program.py -k 'captured or gpu'
fi
if [ -e "$RESULTS/runs" ]; then "$PYTHON" benchmarks/carry.py "$RESULTS" "$OUT"; fi
tar czf "$OUT/bench.tar.gz" -C "$WORK" bench logs
say "carry away: $OUT ($(du -sh "$OUT" | cut -f1))"
