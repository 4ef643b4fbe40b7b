#!/usr/bin/env bash
# Submits a run as Slurm jobs, from a checkout and a folder that all nodes share:
#   bash examples/jobs/slurm.sh run.yaml --partition=gpu --gres=gpu:1 --cpus-per-task=8 --mem=64G --time=24:00:00
# The commands are those of `sipo check run.yaml --jobs`: what may run at the same time is one array, and each array waits
# for the one before. Killed or requeued, a job goes on where it was; the same command submits what is left.
set -euo pipefail
config=${1:?give a configuration, then options of sbatch}
shift
chain=$(sipo check "$config" --jobs)

after="" commands=()
submit() { # OPTIONS..: an array with a job for each of the commands
	local stage=report
	[[ ${commands[0]} =~ \ --(only|until)\ ([^ ]+) ]] && stage=${BASH_REMATCH[2]%/x*} # /x0_5/policies is one of many
	after=$(sbatch --parsable --requeue --kill-on-invalid-dep=yes ${after:+--dependency="afterok:$after"} \
		--array="0-$((${#commands[@]} - 1))" --job-name="${stage//\//-}" "$@" \
		"$(dirname "$0")/job.sbatch" "${commands[@]}" | cut -d ";" -f 1)
	commands=()
}

while IFS= read -r line; do
	case $line in
	"#"*) ;;
	"") [ ${#commands[@]} -eq 0 ] || submit "$@" ;;
	*) commands+=("$line") ;;
	esac
done <<<"$chain"
submit "$@"
echo "$after"
