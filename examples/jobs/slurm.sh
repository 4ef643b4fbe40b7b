#!/usr/bin/env bash
# Submits a run as Slurm jobs, from a checkout and a folder that all nodes share:
#   bash examples/jobs/slurm.sh run.yaml --partition=gpu --gres=gpu:1 --cpus-per-task=8 --mem=64G --time=24:00:00
# An array trains a policy in each job, the next job samples and chooses, an array realigns, the last job does the rest.
# Killed or requeued, a job goes on where it was; the same command submits what is left.
set -euo pipefail
config=$1
shift
here=$(dirname "$0")
names=$(python3 -c 'import sys, sipo; print(*sipo.load_config(sys.argv[1]).names)' "$config")
last=$(($(wc -w <<<"$names") - 1))

submit() { # AFTER OPTIONS.. -- ARGUMENTS: the number of the job
	local after=$1
	shift
	sbatch --parsable --requeue --kill-on-invalid-dep=yes ${after:+--dependency="afterok:$after"} "$@" | cut -d ';' -f 1
}

# shellcheck disable=SC2086 # names are words
{
	align=$(submit "" --array="0-$last" --job-name=align "$@" "$here/train.sbatch" "$config" align $names)
	chosen=$(submit "$align" --job-name=filter "$@" "$here/run.sbatch" "$config" --until filter)
	realign=$(submit "$chosen" --array="0-$last" --job-name=realign "$@" "$here/train.sbatch" "$config" realign $names)
	submit "$realign" --job-name=report "$@" "$here/run.sbatch" "$config"
}
