module example.com/golang-jwt-peer

go 1.22

require github.com/golang-jwt/jwt/v5 v5.2.2
