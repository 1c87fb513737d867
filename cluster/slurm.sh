#!/usr/bin/env bash
# One sweep on a SLURM cluster: `sbatch cluster/slurm.sh tune_configs/paper.yaml`; on several nodes:
# `sbatch --nodes=4 cluster/slurm.sh tune_configs/paper.yaml`. The way to verdicts: docs/cluster.md.
#
# Starts: a Ray of the job's own on its nodes (the first one is the head too), with the CPUs and GPUs
#     that SLURM gave it, and the sweep; both end with the job. A token, made for the job, keeps the
#     other users of the nodes out.
# Costs: the allocation, while the job runs.
# Ends by itself: when the sweep is done. Three minutes before the time limit it stops, and goes on in
#     a new run of the job (so a sweep may be longer than the limit); so it does after a node that
#     failed. SIGTERM (`scancel --batch --signal=TERM JOB`) stops it for good. What is stopped goes on
#     from its last checkpoints; `sbatch` again goes on too.
# Change: the lines marked <-; all of them can also be given to sbatch, as --gpus-per-node=0 where
#     there are only CPUs. What follows the configuration is given to `sparseae run`.
# Needs: the repository with its .venv (`make install`) in a folder that all nodes share; sbatch is
#     called there, results go below it, or where SPARSEAE_RESULTS says.
#SBATCH --job-name=sparseae
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# The lines above are <-: how much of the cluster, and for how long.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: sbatch cluster/slurm.sh CONFIG [options of sparseae run]" >&2; exit 2; }

cd "$SLURM_SUBMIT_DIR"
export PATH="$SLURM_SUBMIT_DIR/.venv/bin:$PATH"    # <-
results=${SPARSEAE_RESULTS:-$SLURM_SUBMIT_DIR/results}

driver='' stop='' again=''
halt() { stop=yes; [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true; }
trap halt TERM
trap 'again=yes; halt' USR1

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(getent ahostsv4 "${nodes[0]}" | awk '$1 !~ /^127\./ { print $1; exit }' || true)
head=${head:-$(hostname -I | cut -d' ' -f1)}
port=$((10000 + SLURM_JOB_ID % 10000))    # other jobs' Rays may be on the same node
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH="$SLURM_SUBMIT_DIR/.$SLURM_JOB_NAME-$SLURM_JOB_ID.token"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
(umask 077; python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")

# Not `ray symmetric-run`: it does not pass signals on, and its `ray stop` ends every Ray of the user.
ray_on() {    # COUNT NODES OPTIONS...: a step that lasts as long as Ray does
    srun --overlap --nodes="$1" --ntasks="$1" --nodelist="$2" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        --output="$SLURM_JOB_NAME-$SLURM_JOB_ID-ray.log" --open-mode=append \
        bash -c 'ulimit -n "$(ulimit -Hn)"; exec ray start --block --min-worker-port=0 --max-worker-port=0 \
            --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" "$@"' ray "${@:3}" &
}
ray_on 1 "${nodes[0]}" --head --node-ip-address="$head" --port="$port" --include-dashboard=false \
    --ray-client-server-port=$((port + 10000)) --temp-dir="/tmp/ray-$SLURM_JOB_ID"
if [ ${#nodes[@]} -gt 1 ]; then
    ray_on $((${#nodes[@]} - 1)) "$(IFS=,; echo "${nodes[*]:1}")" --address="$head:$port"
fi

# The work is cut for the nodes that are there, so all of them are waited for.
python - "$head:$port" ${#nodes[@]} <<'END'
import logging, socket, sys, time
import ray

address, nodes = sys.argv[1], int(sys.argv[2])
host, port = address.rsplit(":", 1)
end = time.monotonic() + 300
there = 0
while there < nodes and time.monotonic() < end:
    time.sleep(1)
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
        if not ray.is_initialized():
            ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False)
        there = sum(node["Alive"] for node in ray.nodes())
    except (OSError, RuntimeError, ValueError):
        continue
if not there:
    sys.exit("Ray did not start; its own log lies beside this one")
print(f"{there} of {nodes} nodes are there", flush=True)
END

status=0
if [ -z "$stop" ]; then
    python -m sparseae run "$1" --address "$head:$port" --results "$results" "${@:2}" &
    driver=$!
    while kill -0 "$driver" 2>/dev/null; do
        wait "$driver" || true    # a signal ends the wait, not the sweep
    done
    wait "$driver" || status=$?
fi
jobs -p | xargs -r kill 2>/dev/null || true    # Ray, on all nodes
wait
if [ -n "$again" ]; then
    echo "the time is over: it goes on in a new run"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
