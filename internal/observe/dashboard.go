package observe

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// dashboard is one page of Grafana's.
type dashboard struct {
	file      string // the name of its file without .json; "supervisor-" and it is the uid, by which links and provisioning know it: never change it
	title     string
	about     string
	variables []variable
	rows      []row
}

type row struct {
	title  string
	height int // of its panels, in units of Grafana's grid (30 pixels)
	panels []panel
}

// panel is one graph, number or table.
type panel struct {
	title string
	about string // what it shows, and what to make of it
	kind  kind
	unit  string // one of Grafana's: reqps, s, bytes, percentunit, …
	width int    // of 24
	// empty says why a healthy system under load may have no data for it; it becomes part of the description. "": data is always there.
	empty   string
	queries []query
	stacked bool
	// shows is what the values of a timeline are called.
	shows map[int]string
}

type query struct {
	expr   string
	legend string
}

type kind string

const (
	series   kind = "timeseries"
	number   kind = "stat"
	heatmap  kind = "heatmap"
	table    kind = "table"
	pie      kind = "piechart"
	timeline kind = "state-timeline"
)

// variable is one of Grafana's, a choice of several values of a label.
type variable struct {
	name   string
	metric string // with that label
}

// schemaVersion is Grafana 11's; later ones bring it up to theirs by themselves.
const schemaVersion = 39

type object = map[string]any

// source is the datasource that is chosen on top of the page.
var source = object{"type": "prometheus", "uid": "${datasource}"}

// Files gives the dashboards as Grafana reads them, by the names of their files.
func Files() map[string][]byte {
	files := map[string][]byte{}
	for _, d := range dashboards() {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false) // > stays > in expressions
		if err := enc.Encode(d.object()); err != nil {
			panic(err) // there are only maps of strings and numbers
		}
		files[d.file+".json"] = b.Bytes()
	}
	return files
}

func dashboards() []dashboard {
	return []dashboard{backend(), infrastructure(), balancing(), jobs()}
}

// gridWidth is Grafana's.
const gridWidth = 24

func (d dashboard) object() object {
	panels, id, y := []object{}, 1, 0
	for _, r := range d.rows {
		panels = append(panels, object{
			"id": id, "type": "row", "title": r.title, "collapsed": false, "panels": []object{},
			"gridPos": object{"x": 0, "y": y, "w": gridWidth, "h": 1},
		})
		id++
		y++
		x := 0
		for _, p := range r.panels {
			if x+p.width > gridWidth {
				x, y = 0, y+r.height
			}
			o := p.object()
			o["id"], o["gridPos"] = id, object{"x": x, "y": y, "w": p.width, "h": r.height}
			panels = append(panels, o)
			id++
			x += p.width
		}
		y += r.height
	}
	variables := []object{{
		"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0, "refresh": 1, "multi": false, "includeAll": false,
	}}
	for _, v := range d.variables {
		definition := fmt.Sprintf("label_values(%s, %s)", v.metric, v.name)
		variables = append(variables, object{
			"name": v.name, "label": v.name, "type": "query", "datasource": source, "definition": definition,
			"query":   object{"query": definition, "refId": "variable"},
			"refresh": 2, // with the time range: instances come and go
			"multi":   true, "includeAll": true, "allValue": ".*", "hide": 0, "sort": 1,
			"current": object{"text": "All", "value": "$__all"},
		})
	}
	return object{
		"uid": "supervisor-" + d.file, "title": d.title, "description": d.about, "tags": []string{"supervisor"},
		"schemaVersion": schemaVersion, "version": 1, "editable": true, "graphTooltip": 1, // one crosshair for all panels
		"refresh": "15s", "time": object{"from": "now-1h", "to": "now"}, "timezone": "", "timepicker": object{},
		"templating":  object{"list": variables},
		"annotations": object{"list": []object{deployments()}},
		"links": []object{{
			"type": "dashboards", "title": "supervisor", "tags": []string{"supervisor"}, "asDropdown": false, "includeVars": true, "keepTime": true,
			"icon": "external link", "targetBlank": false, "tooltip": "", "url": "",
		}},
		"panels": panels,
	}
}

// deployments marks in every graph where a new generation began. Its window is fixed: Grafana does not fill $__rate_interval in here in all versions.
func deployments() object {
	return object{
		"name": "Deployments", "enable": true, "hide": false, "iconColor": "blue", "datasource": source,
		"expr": `changes(supervisor_generation{instance=~"$instance"}[1m]) > 0`, "step": "60s",
		"titleFormat": "reload or self-upgrade", "textFormat": "{{instance}}", "tagKeys": "instance", "useValueForTime": false,
	}
}

func (p panel) object() object {
	targets := []object{}
	for i, q := range p.queries {
		t := object{
			"refId": string(rune('A' + i)), "datasource": source, "editorMode": "code", "expr": q.expr, "legendFormat": q.legend,
			"range": true, "instant": false, "format": "time_series",
		}
		switch p.kind {
		case heatmap:
			t["format"] = "heatmap"
		case table:
			t["format"], t["range"], t["instant"] = "table", false, true
		case pie:
			t["range"], t["instant"] = false, true
		}
		targets = append(targets, t)
	}
	about := p.about
	if p.empty != "" {
		about += " Empty " + p.empty + "."
	}
	defaults := object{
		"unit": p.unit, "color": object{"mode": "palette-classic"}, "custom": object{}, "mappings": []object{},
		"thresholds": object{"mode": "absolute", "steps": []object{{"color": "green", "value": nil}}},
	}
	o := object{
		"type": string(p.kind), "title": p.title, "description": about, "datasource": source, "targets": targets,
		"fieldConfig": object{"defaults": defaults, "overrides": []object{}}, "transformations": []object{},
	}
	legend := object{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}}
	last := object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}
	switch p.kind {
	case series:
		defaults["min"] = 0
		stacking := object{"mode": "none", "group": "A"}
		fill := 8
		if p.stacked {
			stacking["mode"], fill = "normal", 40
		}
		defaults["custom"] = object{"drawStyle": "line", "lineWidth": 1, "fillOpacity": fill, "showPoints": "never", "spanNulls": false, "stacking": stacking}
		o["options"] = object{"legend": legend, "tooltip": object{"mode": "multi", "sort": "desc"}}
	case number:
		defaults["color"] = object{"mode": "thresholds"}
		o["options"] = object{
			"reduceOptions": last, "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
		}
	case heatmap:
		o["options"] = object{
			"calculate": false, "cellGap": 1, "showValue": "never", "rowsFrame": object{"layout": "auto"}, "filterValues": object{"le": 1e-9},
			"color": object{"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "fill": "dark-orange", "reverse": false, "scale": "exponential", "steps": 64},
			"yAxis": object{"axisPlacement": "left", "reverse": false, "unit": p.unit}, "legend": object{"show": true},
			"exemplars": object{"color": "rgba(255,0,255,0.7)"}, "tooltip": object{"mode": "single", "yHistogram": false, "showColorScale": false},
		}
	case table:
		o["options"] = object{"showHeader": true, "cellHeight": "sm", "footer": object{"show": false, "reducer": []string{"sum"}, "fields": ""}}
		o["transformations"] = []object{{"id": "organize", "options": object{
			"excludeByName": object{"Time": true, "__name__": true, "job": true}, "indexByName": object{}, "renameByName": object{"Value": p.title},
		}}}
	case pie:
		legend["displayMode"], legend["placement"], legend["values"] = "table", "right", []string{"percent"}
		o["options"] = object{
			"pieType": "donut", "reduceOptions": last, "displayLabels": []string{"percent"}, "legend": legend, "tooltip": object{"mode": "single", "sort": "none"},
		}
	case timeline:
		mappings := object{}
		for value, text := range p.shows {
			color := "green"
			if text != p.shows[1] {
				color = "red"
			}
			mappings[fmt.Sprint(value)] = object{"text": text, "color": color, "index": value}
		}
		defaults["mappings"] = []object{{"type": "value", "options": mappings}}
		defaults["custom"] = object{"fillOpacity": 70, "lineWidth": 0}
		o["options"] = object{
			"mergeValues": true, "showValue": "auto", "alignValue": "left", "rowHeight": 0.9, "legend": legend, "tooltip": object{"mode": "single", "sort": "none"},
		}
	}
	return o
}
