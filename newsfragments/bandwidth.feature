Bandwidth can be limited, of all transfers (`Transfers.Bandwidth`) and with each peer (`Bandwidth` in the peer): for each direction
a figure (`"20M"` is 20 Mbit/s, `"2.5MB"` bytes per second) or a timetable. `PUT /transfers/bandwidth` changes it at once, until the
restart; `GET` tells it. Jobs of one priority share it equally, a higher priority goes first.
