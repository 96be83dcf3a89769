begin; insert into t values (3); insert into t values (4); commit;
alter table t add column w int;
