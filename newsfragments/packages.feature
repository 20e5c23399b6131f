A Debian package (`make deb`) that starts safely at once, upgrades, and keeps images at a purge; a `Dockerfile` without root, with a
health check.
