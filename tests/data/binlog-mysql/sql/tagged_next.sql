set gtid_next='automatic:nightly'; insert into t values (6);
set gtid_next='automatic'; drop table u;
