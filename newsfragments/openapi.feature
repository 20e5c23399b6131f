`GET /transfers/openapi.json` describes all routes, as OpenAPI 3.1: see `docs/openapi.yaml`.
