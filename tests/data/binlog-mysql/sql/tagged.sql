create table t (v int primary key);
insert into t values (1);
set gtid_next='automatic:nightly'; insert into t values (2); create table u (v int);
set gtid_next='automatic'; insert into t values (3);
set gtid_next='11111111-2222-3333-4444-555555555555:7'; insert into t values (4);
set gtid_next='11111111-2222-3333-4444-ffffffffffff:a_tag_of_thirty_two_characters__:9223372036854775800'; insert into t values (5);
set gtid_next='11111111-2222-3333-4444-555555555555:9'; begin; commit;
set gtid_next='automatic';
