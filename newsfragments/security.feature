TLS at both ends: `SslEnabled` and its keys for those who come in, `https://` peers with `HttpsCACertificates`, `CertificateFile` and
`HttpProxy` for where we go; certificates are read anew when they change, or on SIGHUP. Passwords may be kept as hashes (`txtransfers
password`), scripts have tokens (`BearerTokens`, `txtransfers token`), and `Permissions` says what each may do. Logins that fail slow
down the next. `AuditLog` names a file with one line of JSON for all that is moved. What a page of another address asks a browser to
change is refused (`AllowedOrigins`). **A daemon that would be open to other hosts without any user does not start any more**, unless
`RemoteAccessWithoutUsers` is `true`.
