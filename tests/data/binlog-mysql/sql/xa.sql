create table orders (id int primary key auto_increment, customer varchar(40));
xa start 'a'; insert into orders(customer) values ('xa1'); xa end 'a'; xa prepare 'a'; xa commit 'a';
xa start 'b','q',7; insert into orders(customer) values ('xa2'),('xa3'); xa end 'b','q',7; xa prepare 'b','q',7; xa rollback 'b','q',7;
xa start 'c'; insert into orders(customer) values ('one phase'); xa end 'c'; xa commit 'c' one phase;
xa start 'd'; insert into orders(customer) values ('rb'); xa end 'd'; xa rollback 'd';
xa start 'e'; select 1; xa end 'e'; xa prepare 'e'; xa commit 'e';
set session binlog_transaction_compression=1;
xa start 'f'; insert into orders(customer) values (repeat('x', 40)); xa end 'f'; xa prepare 'f'; xa commit 'f';
xa start 'i'; insert into orders(customer) values ('left'); xa end 'i'; xa prepare 'i';
