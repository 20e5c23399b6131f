`/metrics` for Prometheus (permission `monitor`), with `etc/grafana-dashboard.json` and `etc/prometheus-alerts.yml`; `/healthz` and
`/readyz`, without a password. `/tools/metrics-prometheus` stays as it was.
