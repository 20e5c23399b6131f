The command `txtransfers` talks to a running daemon: `send`, `receive`, `jobs`, `pause`, `resume`, `cancel`, `resubmit`, `receipt`,
`peers`, `find`, `import`, `doctor`, `config check`, with progress bars, `--json`, exit statuses and completion. Without a command's name
it is the daemon in the foreground, as before. Under it is a client for programs on Twisted, `txtransfers.client`. New dependencies:
click and rich, which the daemon itself does not load.
