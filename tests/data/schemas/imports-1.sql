BEGIN TRANSACTION;
CREATE TABLE entry(
        name TEXT NOT NULL, position INTEGER NOT NULL, id TEXT NOT NULL,
        size INTEGER NOT NULL, md5 TEXT NOT NULL, before TEXT,
        is_foreign INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY(name, position));
INSERT INTO "entry" VALUES('push-one',0,'a-b-c-d-e',10,'00000000000000000000000000000000',NULL,0);
INSERT INTO "entry" VALUES('push-one',1,'f-g-h-i-j',20,'11111111111111111111111111111111','22222222222222222222222222222222',1);
INSERT INTO "entry" VALUES('pull-two',0,'k-l-m-n-o',30,'33333333333333333333333333333333',NULL,0);
CREATE TABLE import(
        name TEXT PRIMARY KEY, state TEXT NOT NULL, folder TEXT NOT NULL);
INSERT INTO "import" VALUES('push-one','importing','instances/0123456789abcdef0123456789abcdef');
INSERT INTO "import" VALUES('pull-two','taking back','instances/fedcba9876543210fedcba9876543210');
COMMIT;
PRAGMA user_version=1;
