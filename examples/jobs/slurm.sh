#!/usr/bin/env bash
# Submits a run as Slurm jobs, from a checkout and a folder that all nodes share:
#   bash examples/jobs/slurm.sh run.yaml --partition=gpu --gres=gpu:1 --cpus-per-task=8 --mem=64G --time=24:00:00
# An array trains a policy in each job, the next job samples and chooses, an array realigns, the last job does the rest.
# Killed or requeued, a job goes on where it was; the same command submits what is left.
set -euo pipefail
config=${1:?give a configuration, then options of sbatch}
shift
here=$(dirname "$0")
read -r -d '' jobs <<'END' || true
import sys, sipo
from sipo.graph.build import Graph
try:
    config = sipo.load_config(sys.argv[1])
except sipo.SipoError as error:
    sys.exit(f"error: {error}")
print("names", *config.names)
for kind, stage in Graph(config).jobs():
    print(kind, stage)
END
chain=$(python3 -c "$jobs" "$config")

submit() { # AFTER OPTIONS.. ARGUMENTS: the number of the job
	local after=$1
	shift
	sbatch --parsable --requeue --kill-on-invalid-dep=yes ${after:+--dependency="afterok:$after"} "$@" | cut -d ';' -f 1
}

after="" arrays="" # the job that all wait for, and those that train beside each other behind it
while read -r kind stage; do
	case $kind in
	names) read -r -a names <<<"$stage" ;;
	each)
		array=$(submit "$after" --array="0-$((${#names[@]} - 1))" --job-name="${stage//\//-}" "$@" \
			"$here/train.sbatch" "$config" "$stage" "${names[@]}")
		arrays+=${arrays:+:}$array
		;;
	until)
		after=$(submit "${arrays:-$after}" --job-name="${stage//\//-}" "$@" "$here/run.sbatch" "$config" --until "$stage")
		arrays=""
		;;
	rest) submit "${arrays:-$after}" --job-name="$stage" "$@" "$here/run.sbatch" "$config" ;;
	esac
done <<<"$chain"
