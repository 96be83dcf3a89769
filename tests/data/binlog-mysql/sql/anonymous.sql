create table t (v int primary key);
insert into t values (1);
set global gtid_mode=on_permissive; set global gtid_mode=off_permissive;
insert into t values (2);
