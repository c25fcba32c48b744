#!/usr/bin/env bash
# Fills a shared store by an array of SLURM jobs, then seals it. Run it on the login node:
#
#   PLACE=/lustre/answers ANNOTATIONS=train.json IMAGES=train WEIGHTS=mobile_sam.pt WORKERS=32 docs/scale/slurm.sh --zoom-below 96
#
# Arguments are those of `sensei teacher build` beyond place, data and weights.
# Each job of the array is one worker. A job that is killed, or runs into its time limit, is requeued and goes on with what is left: units
# that are stored stay stored. The last job seals the store when all workers have ended well.
set -euo pipefail
: "${PLACE:?a folder that all nodes see, or s3://BUCKET/PREFIX}" "${ANNOTATIONS:?}" "${IMAGES:?}" "${WEIGHTS:?}"
workers=${WORKERS:-8} threads=${THREADS:-4} limit=${LIMIT:-04:00:00} sensei=${SENSEI:-sensei}

quoted() { printf '%q ' "$@"; }
build=$(quoted "$sensei" teacher build "$ANNOTATIONS" "$IMAGES" --weights "$WEIGHTS" --store "$PLACE" --threads "$threads" "$@")
# The name decides the order of a worker's units and nothing else: one of a requeued job may be the same.
array=$(sbatch --parsable --requeue --job-name=sensei-answers --array="1-$workers" --cpus-per-task="$threads" --time="$limit" \
    --wrap "$build --worker slurm-\$SLURM_ARRAY_JOB_ID-\$SLURM_ARRAY_TASK_ID")
seal=$(sbatch --parsable --job-name=sensei-seal --dependency="afterok:$array" --kill-on-invalid-dep=yes --time=00:30:00 \
    --wrap "$(quoted "$sensei" teacher seal "$PLACE")")
echo "workers: job $array; seal: job $seal, after all of them"
