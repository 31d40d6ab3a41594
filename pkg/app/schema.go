package app

// schema is a JSON Schema (2020-12), as OpenAPI 3.1 has them.
type schema map[string]any

// object has these members, of which some are required, and no others.
func object(members map[string]schema, required ...string) schema {
	s := schema{"type": "object", "additionalProperties": false}
	if len(members) > 0 {
		s["properties"] = members
	}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func list(of schema, least, most int) schema {
	return schema{"type": "array", "items": of, "minItems": least, "maxItems": most}
}

func text(least, most int, about string) schema {
	return schema{"type": "string", "minLength": least, "maxLength": most, "description": about}
}

func whole(least, most int, about string) schema {
	return schema{"type": "integer", "minimum": least, "maximum": most, "description": about}
}

// counts is an object of whole numbers.
func counts(names ...string) schema {
	members := map[string]schema{}
	for _, name := range names {
		members[name] = schema{"type": "integer"}
	}
	return object(members, names...)
}
