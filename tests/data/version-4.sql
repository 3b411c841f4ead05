-- A database as version 4 of the tables left it: three contacts in two workspaces.
PRAGMA application_id = 1366910064;
PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE contact (
            number INTEGER PRIMARY KEY,
            workspace_id INTEGER NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
            id TEXT NOT NULL,
            phone TEXT NOT NULL,
            name TEXT,
            email TEXT,
            folded TEXT NOT NULL,
            source TEXT NOT NULL CHECK (source IN ('api', 'csv_import', 'manual')),
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            tags TEXT NOT NULL CHECK (json_valid(tags) AND json_type(tags) = 'array'),
            metadata TEXT NOT NULL CHECK (json_valid(metadata) AND json_type(metadata) = 'object'),
            UNIQUE (workspace_id, phone),
            UNIQUE (workspace_id, id)
        ) STRICT
        ;
INSERT INTO "contact" VALUES(1,1,'0197a1c0-5e00-7000-8000-0000000000aa','+14155550123','Romain','romain@example.com','romainromain@example.com','csv_import',1795894559121267,1795894559121267,'["vip","café"]','{"lifetime_value":8900.5}');
INSERT INTO "contact" VALUES(2,1,'01a223a8-4192-7f01-abb7-d0829f59180f','+33639980101','Élodie Martin',NULL,'élodie martin','api',1795894559122491,1795894559122491,'[]','{}');
INSERT INTO "contact" VALUES(3,2,'0197a1c0-5e00-7000-8000-0000000000bb','+14155550123',NULL,NULL,'','manual',1795894559124649,1795894559124649,'[]','{}');
CREATE TABLE token (
            id INTEGER PRIMARY KEY,
            workspace_id INTEGER NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
            name TEXT NOT NULL UNIQUE,
            sha256 BLOB NOT NULL UNIQUE,
            created_at INTEGER NOT NULL
        ) STRICT
        ;
CREATE TABLE workspace (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            uuid TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL UNIQUE
        ) STRICT
        ;
INSERT INTO "workspace" VALUES(1,'8e3eeee5-aa9f-4275-b1b0-7348a636615f','default');
INSERT INTO "workspace" VALUES(2,'bab1d351-a1ef-4730-9770-147c9fffe785','shop');
CREATE INDEX contact_by_recency
            ON contact (workspace_id, updated_at, number, folded, phone, tags)
        ;
CREATE INDEX contact_by_email ON contact (workspace_id, email COLLATE NOCASE, updated_at)
            WHERE email IS NOT NULL
        ;
COMMIT;
