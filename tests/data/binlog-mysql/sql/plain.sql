create table orders (id int primary key auto_increment, customer varchar(40));
insert into orders(customer) values ('a'),('b');
begin; insert into orders(customer) values ('c'); update orders set customer='d' where id=1; commit;
drop table orders;
