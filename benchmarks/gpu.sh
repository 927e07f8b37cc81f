#!/usr/bin/env bash
# Everything that this project wants to know of a bare CUDA machine (python with torch, numpy, mujoco, ogbench, pyarrow,
# filelock, pydantic, safetensors, tqdm; no Ray, no network), in one go, in order of worth, and resumable:
#
#     benchmarks/gpu.sh MINUTES [OUT]
#     benchmarks/gpu.sh --rehearse [OUT]     # the same on the CPU with everything tiny: about 2 minutes on idle cores
#
# tests  every CUDA test, in parallel processes, by name; beside them all that is timed later is compiled once
# rates  updates per second of LPS in every precision, the floor and the profile of an update, the authors' release
#        (with RELEASE, a checkout of it), every other agent, packs of 8 and 128, and the time of a decision
# data   EPISODES episodes of GROUP by OGBench's oracles, on every core, in the background from the start
# train  AGENT at the paper's defaults, TASKS x SEEDS in one program, for MINUTES (0: not at all)
#
# PARTS names those wanted (default: all four). What one has found is in OUT (default build/gpu/out) as soon as it is
# known, and every CARRY_SECONDS while training: logs and tables in bench.tar.gz, curves, rows, policies and checkpoints
# as in benchmarks/carry.py; at most 8 files, none over 16 MiB, 64 MiB in all. So it may be cut at any second.
#
# Called again it skips what is there and training goes on, where $WORK (default build/gpu: data and checkpoints, 1 GB)
# is still there. On another machine, with the files of OUT in a folder, the runs whose checkpoints came along go on:
#
#     PARTS="data train" CARRIED=FOLDER TASKS="1 2" SEEDS=0 benchmarks/gpu.sh MINUTES
#
# (several folders: CARRIED="ONE TWO"). Data are the same bytes on every machine, so they are collected again.
# Other environment variables: PYTHON; AGENT, GROUP, STEPS, EVAL_INTERVAL and EPISODES, which are part of what a run is
# (keep them between calls); PRECISION (float32), COMPILE (yes, no; default: yes unless the compiled benchmark failed),
# LIMIT (seconds that a benchmark may take), CARRY_MIB (60: the size of what is carried, without bench.tar.gz).
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 2; }
[ $# -ge 1 ] || usage
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
CORES=$(nproc)
PARTS=${PARTS:-tests rates data train} PRECISION=${PRECISION:-float32} LIMIT=${LIMIT:-300}
AGENT=${AGENT:-lps} GROUP=${GROUP:-cube-single} TASKS=${TASKS:-1 2 3 4 5}

if [ "$1" = --rehearse ]; then
  DEVICE=cpu MINUTES=2 WORK=${WORK:-build/gpu-rehearsal} EPISODES=${EPISODES:-3}
  OTHERS="flow_bc" PRECISIONS="float32 bf16" MODES="plain" MEMBERS="1 2" MORE="3" BENCH="--seconds 0.2 --threads 1" CALLS=20
  STEPS=${STEPS:-60} EVAL_INTERVAL=${EVAL_INTERVAL:-30} SEEDS=${SEEDS:-0 1} COMPILE=${COMPILE:-no}
  TRAIN="--eval-episodes 1 --eval-workers 1 --log-interval 10 --threads 1 --checkpoint-seconds ${CHECKPOINT_SECONDS:-5}"
  SET="base_hidden=[32,32] critic_hidden=[32,32] latent_actor_hidden=[32] batch_size=32" CARRY_SECONDS=${CARRY_SECONDS:-5}
else
  [[ "$1" =~ ^[0-9]+$ ]] || usage
  DEVICE=cuda MINUTES=$1 WORK=${WORK:-build/gpu} EPISODES=${EPISODES:-1000}
  OTHERS=$("$PYTHON" -c 'from lps.agents import AGENTS; print(*(name for name in AGENTS if name != "lps"))')
  PRECISIONS="float32 tf32 bf16" MODES="compiled plain" MEMBERS="1 40" MORE="8 128" BENCH="--seconds 1" CALLS=500
  STEPS=${STEPS:-1000000} EVAL_INTERVAL=${EVAL_INTERVAL:-25000} SEEDS=${SEEDS:-0 1 2 3 4 5 6 7} COMPILE=${COMPILE:-}
  TRAIN="--eval-workers $((CORES > 2 ? CORES - 2 : 1)) --checkpoint-seconds ${CHECKPOINT_SECONDS:-120}"
  SET="" CARRY_SECONDS=${CARRY_SECONDS:-120}
fi
OUT=${2:-$WORK/out}
mkdir -p "$WORK/bench" "$WORK/logs" "$OUT"
WORK=$(cd "$WORK" && pwd)
RESULTS=$WORK/results DATASET=$GROUP-play-gpu
export TORCHINDUCTOR_CACHE_DIR=$WORK/kernels TRITON_CACHE_DIR=$WORK/triton  # what was compiled once stays

say() { echo "[$(date +%T)] $*"; }
wanted() { [[ " $PARTS " == *" $1 "* ]]; }
leave() { tar czf "$WORK/bench.$BASHPID" -C "$WORK" bench logs && mv "$WORK/bench.$BASHPID" "$OUT/bench.tar.gz"; }
limited() { timeout --kill-after=10 "$LIMIT" "$@"; }
# stage NAME COMMAND...: runs it once; a failure is told, noted in its log, and does not stop the rest.
stage() {
  local name=$1; shift
  if [ -e "$WORK/logs/$name.done" ]; then say "$name: done before"; return 0; fi
  say "$name"
  if "$@" > "$WORK/logs/$name.log" 2>&1; then touch "$WORK/logs/$name.done"; else say "$name FAILED:"; tail -n 5 "$WORK/logs/$name.log"; fi
  leave
}
# throughput OUT ARGUMENT...
throughput() { local out=$1; shift; limited "$PYTHON" benchmarks/throughput.py --device $DEVICE $BENCH --out "$WORK/bench/$out" "$@"; }
# Kernels of everything compiled that `rates` times, several at once: timing is alone afterwards, and starts at once.
compile_all() {
  { for precision in $PRECISIONS; do echo "lps $precision"; done; for agent in $OTHERS; do echo "$agent $PRECISION"; done; } |
    TORCHINDUCTOR_COMPILE_THREADS=2 limited xargs -P $((CORES > 4 ? CORES / 2 : 1)) -L 1 sh -c \
      '"$0" benchmarks/throughput.py --device "$1" --seconds 0.01 --modes compiled --members $2 --out "$3/$4-$5" --agents "$4" --precision "$5"' \
      "$PYTHON" $DEVICE "$MEMBERS" "$WORK/compiled"
}
carry() { [ ! -e "$RESULTS/runs" ] || flock "$WORK/carry.lock" "$PYTHON" benchmarks/carry.py away "$RESULTS" "$OUT" --mib "${CARRY_MIB:-60}"; }

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

if wanted data; then  # at the lowest priority: what is timed comes first
  stage data nice -n 19 "$PYTHON" -m lps collect "$GROUP-play" --episodes "$EPISODES" --seed 0 --workers "$CORES" \
    --name "$DATASET" --data-dir "$WORK/data" &
  collecting=$!
fi

if wanted tests; then
  if wanted rates && [[ $MODES == *compiled* ]]; then stage compile compile_all & compiling=$!; fi
  parallel=$("$PYTHON" -c 'import xdist' 2> /dev/null && echo "-n $((CORES > 4 ? CORES / 2 : 1))" || true)
  TORCHINDUCTOR_COMPILE_THREADS=1 stage cuda-tests limited "$PYTHON" -m pytest -v $parallel tests/test_cuda.py
  tail -n 1 "$WORK/logs/cuda-tests.log"
  [ -z "${compiling:-}" ] || wait $compiling
fi

if wanted rates; then
  for precision in $PRECISIONS; do
    stage lps-$precision throughput lps-$precision --agents lps --modes $MODES --members $MEMBERS --precision $precision
  done
  stage floor limited "$PYTHON" benchmarks/floor.py --device $DEVICE --members $MEMBERS --precisions $PRECISIONS --out "$WORK/bench"
  if [ -n "${RELEASE:-}" ]; then
    stage release limited "$PYTHON" benchmarks/release.py "$RELEASE" --device $DEVICE --members $MEMBERS --seconds 1 --out "$WORK/bench"
  fi
  for agent in $OTHERS; do
    stage rates-$agent throughput $agent --agents $agent --modes ${MODES%% *} --members $MEMBERS --precision $PRECISION
  done
  for precision in $PRECISIONS; do
    stage packs-$precision throughput packs-$precision --agents lps --modes ${MODES%% *} --members $MORE --precision $precision
  done
  for device in $(printf 'cpu\n%s\n' $DEVICE | sort -u); do
    stage inference-$device limited "$PYTHON" benchmarks/inference.py --device $device --calls $CALLS --agents lps $OTHERS --out "$WORK/bench"
  done
fi

if wanted data; then wait $collecting; fi

if wanted train && [ "$MINUTES" -gt 0 ]; then
  for folder in ${CARRIED:-}; do stage "back-$(basename "$folder")" "$PYTHON" benchmarks/carry.py back "$folder" "$RESULTS"; done
  if [ -z "$COMPILE" ]; then
    if [ -e "$WORK/logs/lps-$PRECISION.log" ] && [ ! -e "$WORK/logs/lps-$PRECISION.done" ]; then COMPILE=no; else COMPILE=yes; fi
  fi
  say "training for at most $MINUTES minutes (compiled: $COMPILE, $PRECISION)"
  while sleep "$CARRY_SECONDS"; do carry > "$WORK/logs/carry.log" 2>&1 || true; leave; done &
  carrying=$!
  code=0
  # The end of a minute is a kill like any other: what counts is the last checkpoint. (INT would do, but is ignored by
  # what a shell without job control has started in the background.)
  timeout --kill-after=60 "${MINUTES}m" "$PYTHON" -m lps train --agent "$AGENT" \
    --task $(printf "$GROUP-play-singletask-task%s-v0 " $TASKS) --seeds $SEEDS --steps "$STEPS" \
    --eval-interval "$EVAL_INTERVAL" --dataset "$DATASET" --data-dir "$WORK/data" --device $DEVICE \
    --precision "$PRECISION" $([ "$COMPILE" = yes ] && echo --compile) $TRAIN ${SET:+--set $SET} --results "$RESULTS" \
    >> "$WORK/logs/train.log" 2>&1 || code=$?
  kill $carrying
  case $code in
    0) say "training: every run is done" ;;
    124 | 137) say "training: time is up; the same command goes on" ;;
    *) say "training FAILED ($code):"; tr '\r' '\n' < "$WORK/logs/train.log" | tail -n 15 ;;
  esac
  tr '\r' '\n' < "$WORK/logs/train.log" | grep -aE 'step/s|s/step' | tail -n 1 || true
  carry
fi
leave
say "carry away: $OUT ($(du -sh "$OUT" | cut -f1))"
