# Runs the sparseae of this folder with the Python that the machine's Ray runs with; the one on PATH
# may be another, without what sparseae needs. A job's process is a child of one of Ray's workers.
pid=$PPID
while [ "${pid:-0}" -gt 1 ] && [ -z "$command" ]; do
    command=$(tr '\0' '\n' < "/proc/$pid/cmdline" | sed -n 's/^--python_worker_command=//p')
    pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status")
done
case $command in
    \"*) python=${command#?} python=${python%%\"*} ;;
    *) python=${command%% *} ;;
esac
[ -x "$python" ] || python=python
exec "$python" -m sparseae "$@"
