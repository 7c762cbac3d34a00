-- Spread of the vectors' norms by layer: zeros, sinks and overflow show here.
-- param model text optional: only this model
SELECT model, site, layer,
       count(*) AS rows,
       count(*) FILTER (norm = 0) AS zeros,
       count(*) FILTER (NOT isfinite(norm)) AS not_finite,
       min(norm) AS least,
       median(norm) AS median,
       max(norm) AS most
FROM activations
WHERE $model::VARCHAR IS NULL OR model = $model::VARCHAR
GROUP BY model, site, layer
ORDER BY model, site, layer
