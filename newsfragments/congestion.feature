TCP connections use the congestion control `bbr` where the system allows it, which keeps the rate on lines that lose packets; the log
says which is used. `Transfers.CongestionControl` names another.
