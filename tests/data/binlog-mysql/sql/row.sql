create table orders (id int primary key auto_increment, customer varchar(40), total decimal(10,2));
create table items (order_id int, n int, what text, primary key(order_id,n));
create table log_m (id int primary key auto_increment, t varchar(100)) engine=myisam;
create table docs (id int primary key, doc json);
insert into orders (customer,total) values ('ann',10),('bob',20),('cy',30);
begin; insert into orders (customer,total) values ('dee',1); insert into items values (4,1,'tea'),(4,2,'cup'); update orders set total=9 where id=4; commit;
begin; insert into orders (customer,total) values ('eve',1); savepoint s1; insert into items values (5,1,'x'); rollback to s1; insert into items values (5,2,'y'); release savepoint s1; commit;
begin; delete from orders; rollback;
insert into log_m (t) values ('m1'),('m2');
begin; insert into orders (customer) values ('kept'); insert into orders(customer) values ('too'); savepoint s2; insert into orders (customer) values ('no'); rollback to s2; commit;
create table copy1 as select * from orders;
set timestamp=1600000000; update orders set total = total + 1 where customer='bob'; set timestamp=default;
create temporary table tt (a int); insert into tt values (1); insert into orders(customer) select 'temp' from tt; drop temporary table tt;
set session binlog_rows_query_log_events=1;
update orders set total = 7 where id = 1;
begin; insert into orders(customer) values ('noted'); delete from items where n = 2; commit;
set session binlog_row_image=minimal; update orders set total = 8 where id = 1; delete from orders where id = 3;
set session binlog_row_image=full, session binlog_row_value_options='PARTIAL_JSON';
insert into docs values (1, json_object('a', repeat('x', 200), 'b', 1)); update docs set doc = json_set(doc, '$.b', 2) where id = 1;
set session binlog_rows_query_log_events=0;
delimiter //
create trigger tr after insert on orders for each row insert into items values (new.id, 1, 'by trigger')//
create procedure pr() begin insert into orders(customer) values ('proc'); insert into orders(customer) values ('proc2'); end//
delimiter ;
call pr();
insert into orders(customer) values ('trigd');
begin; insert into orders(customer) values ('a'); commit and chain; insert into orders(customer) values ('b'); commit;
delete from orders where 1=0;
drop table if exists copy1, nothere;
