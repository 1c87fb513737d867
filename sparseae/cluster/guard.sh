#!/bin/sh
# Ends the machine that it runs on once it has had no work for a while. It asks nobody: neither the
# cluster's head nor its autoscaler needs to be alive. Providers start it when a machine boots.
#
#   guard.sh IDLE_SECONDS LIFE_SECONDS [COMMAND]
#
# Ends it after IDLE_SECONDS without work, and after LIFE_SECONDS in any case, by COMMAND (default:
# shutdown -h now), again and again until it works. Work is a Ray worker that has something to do
# beside a raylet (on the head: a submitted job), or a sweep that somebody started by hand.
idle=$1 life=$2 end=${3:-shutdown -h now}
every=$((idle < 120 ? 1 : 30))

now() { cut -d. -f1 /proc/uptime; }  # the clock may be set while a machine boots

works() {
    lines=$(for file in /proc/[0-9]*/cmdline; do tr '\0\n' '  ' < "$file" 2>/dev/null && echo; done)
    if echo "$lines" | grep -q '/raylet/raylet ' && echo "$lines" | grep '^ray::' |
        grep -qv -e '^ray::IDLE' -e '^ray::DashboardAgent' -e '^ray::RuntimeEnvAgent'; then
        return 0
    fi
    echo "$lines" | grep -q -e '/sparseae run ' -e ' -m sparseae run '
}

start=$(now) last=$(now)
while :; do
    works && last=$(now)
    if [ $(($(now) - last)) -ge "$idle" ] || [ $(($(now) - start)) -ge "$life" ]; then
        echo "sparseae: no work for $(($(now) - last)) s, up for $(($(now) - start)) s: ending"
        sh -c "$end"
    fi
    sleep "$every"
done
