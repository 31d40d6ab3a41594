// Package operator is what the operator's pages have in common, whoever serves them (the supervisor its dashboard, the application its jobs): the
// token and the sessions that stand for it, the page around all pages, its style sheet and its script. It knows no HTTP server: one of them is net/http's, the
// other one fasthttp.
package operator
