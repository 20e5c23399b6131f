BEGIN TRANSACTION;
CREATE TABLE any_resource(
        id INTEGER PRIMARY KEY, level INTEGER NOT NULL, public_id TEXT NOT NULL,
        parent INTEGER, uid TEXT NOT NULL, tags TEXT NOT NULL,
        updated TEXT NOT NULL, batch INTEGER NOT NULL DEFAULT 0);
INSERT INTO "any_resource" VALUES(1,0,'531cb174-032d3696-c6d86580-c124b284-0473bbbd',NULL,'DEMO0001','{"PatientName": "M\u00fcster^Demo0001", "PatientID": "DEMO0001", "PatientBirthDate": "19700101", "PatientSex": "O"}','20261127T235318',0);
INSERT INTO "any_resource" VALUES(2,1,'57ec4515-1cc84acf-2a73eec6-17bafb62-0396948d',1,'2.25.48577302788733425245320705702164704918','{"StudyDate": "20240229", "StudyTime": "101500", "AccessionNumber": "ACC263339", "InstitutionName": "Demonstration", "ReferringPhysicianName": "Curie^Marie", "StudyDescription": "Synthetic study", "StudyInstanceUID": "2.25.48577302788733425245320705702164704918", "StudyID": "1"}','20261127T235318',0);
INSERT INTO "any_resource" VALUES(3,2,'277d285a-64195e41-f576feb7-d48e9ef1-f40449c9',2,'2.25.324593306971984823011209145940689697740','{"SeriesDate": "20240229", "SeriesTime": "101500", "Modality": "CT", "Manufacturer": "txtransfers", "SeriesDescription": "Synthetic CT", "SeriesInstanceUID": "2.25.324593306971984823011209145940689697740", "SeriesNumber": "1", "ImageOrientationPatient": "1.0\\0.0\\0.0\\0.0\\1.0\\0.0"}','20261127T235318',0);
INSERT INTO "any_resource" VALUES(4,3,'311d7cb4-64129e03-0949f38c-fbd6a668-c4884559',3,'2.25.129236895784831446595728660189088734668','{"SOPInstanceUID": "2.25.129236895784831446595728660189088734668", "InstanceNumber": "1", "ImagePositionPatient": "-180.0\\-180.0\\1.25", "ImageOrientationPatient": "1.0\\0.0\\0.0\\0.0\\1.0\\0.0"}','20261127T235317',0);
INSERT INTO "any_resource" VALUES(5,3,'9283d75e-a1715621-91c31b11-3027ac68-4ff898d4',3,'2.25.97236876149180237283595361638838346426','{"SOPInstanceUID": "2.25.97236876149180237283595361638838346426", "InstanceNumber": "2", "ImagePositionPatient": "-180.0\\-180.0\\2.50", "ImageOrientationPatient": "1.0\\0.0\\0.0\\0.0\\1.0\\0.0"}','20261127T235318',0);
INSERT INTO "any_resource" VALUES(6,0,'a1751844-4fbc0b6f-f196f807-bbd9fc94-c65fc6ea',NULL,'DEMO0002','{"PatientName": "M\u00fcster^Demo0002", "PatientID": "DEMO0002", "PatientBirthDate": "19700101", "PatientSex": "O"}','20261127T235318',0);
INSERT INTO "any_resource" VALUES(7,1,'0f810900-49c187fb-f119e96a-54b214d7-6dbfe455',6,'2.25.268012207607632014925450031142905127947','{"StudyDate": "20240229", "StudyTime": "101500", "AccessionNumber": "ACC706485", "InstitutionName": "Demonstration", "ReferringPhysicianName": "Curie^Marie", "StudyDescription": "Synthetic study", "StudyInstanceUID": "2.25.268012207607632014925450031142905127947", "StudyID": "1"}','20261127T235318',0);
INSERT INTO "any_resource" VALUES(8,2,'de17aeb6-314ac7b9-cf96e9ad-df4e3885-99595705',7,'2.25.124921530337801222236511466664886343924','{"SeriesDate": "20240229", "SeriesTime": "101500", "Modality": "CT", "Manufacturer": "txtransfers", "SeriesDescription": "Synthetic CT", "SeriesInstanceUID": "2.25.124921530337801222236511466664886343924", "SeriesNumber": "1", "ImageOrientationPatient": "1.0\\0.0\\0.0\\0.0\\1.0\\0.0"}','20261127T235318',0);
INSERT INTO "any_resource" VALUES(9,3,'d41c10e1-7a395d49-ae96739d-a0ff44f2-c1d59858',8,'2.25.142196284241792559842763841758708908810','{"SOPInstanceUID": "2.25.142196284241792559842763841758708908810", "InstanceNumber": "1", "ImagePositionPatient": "-180.0\\-180.0\\1.25", "ImageOrientationPatient": "1.0\\0.0\\0.0\\0.0\\1.0\\0.0"}','20261127T235318',0);
CREATE TABLE change(
        seq INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, level INTEGER NOT NULL,
        public_id TEXT NOT NULL, date TEXT NOT NULL);
INSERT INTO "change" VALUES(1,'NewPatient',0,'531cb174-032d3696-c6d86580-c124b284-0473bbbd','20261127T235317');
INSERT INTO "change" VALUES(2,'NewStudy',1,'57ec4515-1cc84acf-2a73eec6-17bafb62-0396948d','20261127T235317');
INSERT INTO "change" VALUES(3,'NewSeries',2,'277d285a-64195e41-f576feb7-d48e9ef1-f40449c9','20261127T235317');
INSERT INTO "change" VALUES(4,'NewInstance',3,'311d7cb4-64129e03-0949f38c-fbd6a668-c4884559','20261127T235317');
INSERT INTO "change" VALUES(5,'NewInstance',3,'9283d75e-a1715621-91c31b11-3027ac68-4ff898d4','20261127T235318');
INSERT INTO "change" VALUES(6,'NewPatient',0,'a1751844-4fbc0b6f-f196f807-bbd9fc94-c65fc6ea','20261127T235318');
INSERT INTO "change" VALUES(7,'NewStudy',1,'0f810900-49c187fb-f119e96a-54b214d7-6dbfe455','20261127T235318');
INSERT INTO "change" VALUES(8,'NewSeries',2,'de17aeb6-314ac7b9-cf96e9ad-df4e3885-99595705','20261127T235318');
INSERT INTO "change" VALUES(9,'NewInstance',3,'d41c10e1-7a395d49-ae96739d-a0ff44f2-c1d59858','20261127T235318');
CREATE TABLE committed(name TEXT PRIMARY KEY, time REAL NOT NULL, report TEXT NOT NULL);
INSERT INTO "committed" VALUES('push.93ee1e27-5b74-484a-aacc-5033ba2c1f8a',1.7958235980740540027e+09,'AlreadyStored 2');
CREATE TABLE "file"(
        resource INTEGER PRIMARY KEY, folder INTEGER NOT NULL REFERENCES folder(id),
        name TEXT NOT NULL, size INTEGER NOT NULL, md5 TEXT NOT NULL,
        transfer_syntax TEXT NOT NULL, sop_class TEXT NOT NULL);
INSERT INTO "file" VALUES(4,1,'1.dcm',2164,'d2f7ea5732f8ee2eae7059c97af44ee5','1.2.840.10008.1.2.1','1.2.840.10008.5.1.4.1.1.2');
INSERT INTO "file" VALUES(5,1,'2.dcm',2164,'164c2c1945b864f2210797c87ad543cd','1.2.840.10008.1.2.1','1.2.840.10008.5.1.4.1.1.2');
INSERT INTO "file" VALUES(9,1,'3.dcm',2164,'bf4bf64112640cc84cfbef3e50d1c6c8','1.2.840.10008.1.2.1','1.2.840.10008.5.1.4.1.1.2');
CREATE TABLE folder(
        id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, open INTEGER NOT NULL);
INSERT INTO "folder" VALUES(1,'fb3a41bb4bcc420a83238c2f30b7300e',1);
CREATE TABLE garbage(path TEXT PRIMARY KEY);
CREATE TABLE hidden(batch INTEGER PRIMARY KEY AUTOINCREMENT);
CREATE TABLE property(name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "property" VALUES('identifier','c42ed15d79970f989a52df7e7e42c80c');
CREATE INDEX file_folder ON file(folder);
CREATE INDEX resource_id ON any_resource(public_id, level, batch);
CREATE INDEX resource_parent ON any_resource(parent);
CREATE INDEX resource_level ON any_resource(level, id, batch);
CREATE INDEX resource_uid ON any_resource(uid);
CREATE VIEW resource AS
        SELECT id, level, public_id, parent, uid, tags, updated, batch FROM any_resource
        WHERE batch NOT IN (SELECT batch FROM hidden);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('change',9);
COMMIT;
PRAGMA user_version=2;
