At home in systemd: `Type=notify` with a status, a watchdog that hears of the reactor and of the index, reloads that are waited
for, `etc/txtransfers.socket` for socket activation, and lines of the journal with their priority. The unit runs
`/usr/bin/txtransfers -c /etc/txtransfers/txtransfers.json` as the user `txtransfers`.
